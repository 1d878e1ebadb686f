//! Engine events, reduced to those that can change a route.

use bollard::models::{EventMessage, EventMessageTypeEnum};
use interlock_core::model::{ContainerId, Health, Timestamp};

/// The actions that are asked for. What Interlock itself does to containers (exec, upload) is not among
/// them and wakes nobody; nor are probes' execs of every health check.
pub(super) const ACTIONS: &[&str] = &[
    "start",
    "kill",
    "die",
    "pause",
    "unpause",
    "destroy",
    "rename",
    "health_status",
    "connect",
    "disconnect",
];

/// Something happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// To which.
    pub(super) id: ContainerId,
    /// When, by the engine's clock.
    pub(super) at: Timestamp,
    /// What.
    pub(super) what: Happening,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happening {
    /// A new run began.
    Started,
    /// A signal was delivered, by number.
    Signalled(u8),
    /// The run ended.
    Died {
        /// The exit code.
        code: Option<i64>,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// Removed.
    Destroyed,
    /// It has another name.
    Renamed(String),
    /// Its health check has a new verdict.
    Health(Health),
    /// It was attached to a network.
    Connected,
    /// It was detached from the network of this name.
    Disconnected(String),
}

impl Event {
    /// What an engine's message means; none if it means nothing to routes.
    pub(super) fn parse(message: EventMessage) -> Option<Self> {
        let action = message.action?;
        let actor = message.actor?;
        let attributes = actor.attributes.unwrap_or_default();
        let attribute = |name: &str| attributes.get(name).map(String::as_str);
        let nanos = message.time_nano.or_else(|| message.time.map(|s| s.saturating_mul(1_000_000_000)));
        let at = Timestamp(u64::try_from(nanos?).ok()? / 1_000_000);
        let (id, what) = match message.typ? {
            EventMessageTypeEnum::CONTAINER => {
                let what = match action.split_once(": ").map_or(action.as_str(), |(verb, _)| verb) {
                    "start" => Happening::Started,
                    "kill" => Happening::Signalled(super::signal::number(attribute("signal")?)?),
                    "die" => {
                        Happening::Died { code: attribute("exitCode").and_then(|code| code.parse().ok()) }
                    }
                    "pause" => Happening::Paused,
                    "unpause" => Happening::Unpaused,
                    "destroy" => Happening::Destroyed,
                    "rename" => Happening::Renamed(attribute("name")?.trim_start_matches('/').to_owned()),
                    "health_status" => Happening::Health(health(action.split_once(": ")?.1)),
                    _ => return None,
                };
                (actor.id?, what)
            }
            EventMessageTypeEnum::NETWORK => {
                let what = match action.as_str() {
                    "connect" => Happening::Connected,
                    "disconnect" => Happening::Disconnected(attribute("name")?.to_owned()),
                    _ => return None,
                };
                (attribute("container")?.to_owned(), what)
            }
            _ => return None,
        };
        Some(Self { id: id.parse().ok()?, at, what })
    }
}

/// Docker's word for a health check's verdict.
pub(super) fn health(word: &str) -> Health {
    match word {
        "starting" => Health::Starting,
        "healthy" => Health::Healthy,
        "unhealthy" => Health::Unhealthy,
        _ => Health::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Option<Event> {
        Event::parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn the_engine_s_own_words_are_understood() {
        // As Docker 20.10 sends them.
        let kill = parse(
            r#"{"status":"kill","id":"f20a","from":"i","Type":"container","Action":"kill","Actor":{"ID":"f20a",
            "Attributes":{"image":"i","name":"n","signal":"15"}},"scope":"local","time":1,"timeNano":1795256816396886973}"#,
        );
        let expected = Event {
            id: "f20a".parse().unwrap(),
            at: Timestamp(1_795_256_816_396),
            what: Happening::Signalled(15),
        };
        assert_eq!(kill, Some(expected));
        let healthy = parse(
            r#"{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"c5","Attributes":{}},"time":2}"#,
        );
        assert_eq!(healthy.unwrap().what, Happening::Health(Health::Healthy));
        let left = parse(
            r#"{"Type":"network","Action":"disconnect","Actor":{"ID":"7c","Attributes":{"container":"f20a",
            "name":"shop_default","type":"bridge"}},"time":1,"timeNano":1795256817550950394}"#,
        );
        assert_eq!(left.unwrap().what, Happening::Disconnected("shop_default".to_owned()));
    }

    #[test]
    fn what_interlock_does_itself_is_nothing() {
        for action in
            ["exec_create: /bin/sh -c true", "exec_start: x", "exec_die", "extract-to-dir", "create"]
        {
            let json = format!(
                r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"c5","Attributes":{{}}}},"time":2}}"#
            );
            assert_eq!(parse(&json), None, "{action}");
        }
    }
}
