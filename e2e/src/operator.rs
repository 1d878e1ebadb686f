//! The operator of a test, as a container that sees nothing but its own world.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::container::Executed;
use crate::world::Kind;
use crate::{Container, Result, World, ensure, eventually, http};

/// The port of health and metrics in the operator's container.
const METRICS: u16 = 9090;
/// The operator's image.
const IMAGE: &str = "interlock";

/// An operator that runs.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Its container.
    pub container: Container,
    /// The network that it was put into for its metrics alone.
    network: String,
}

/// An operator to be started.
#[derive(Debug)]
pub struct Start<'w> {
    world: &'w World,
    name: String,
    socket: String,
    config: Value,
    volumes: Vec<String>,
    files: Vec<(String, Vec<u8>, u32)>,
    without: Vec<String>,
    arguments: Vec<String>,
    /// Whether it sees everybody else stop when its engine does.
    outlives: bool,
    /// The image and the network of proxy and operator in one container.
    embedded: Option<(&'static str, String)>,
}

impl Operator {
    /// An operator with the default configuration, but for what keeps tests apart.
    pub fn of(world: &World) -> Start<'_> {
        let (key, value) = world.label();
        Start {
            world,
            name: "operator".to_owned(),
            socket: world.socket().to_owned(),
            config: json!({
                "docker": { "labelSelector": format!("{key}={value}") },
                "listen": { "metrics": format!("0.0.0.0:{METRICS}") },
                "operatorId": world.name("operator"),
                "log": { "level": "info,interlock=debug" },
            }),
            volumes: Vec::new(),
            files: Vec::new(),
            without: Vec::new(),
            arguments: Vec::new(),
            outlives: false,
            embedded: None,
        }
    }

    /// Where health and metrics are.
    pub async fn metrics_at(&self) -> Result<SocketAddr> {
        self.container.at(&self.network, METRICS).await
    }

    /// All metrics as text.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(self.metrics_at().await?, "localhost", "/metrics").await?.expect(200)?.text())
    }

    /// The sum of a metric's samples whose labels contain all of `labels`, each as `name="value"`; 0 if there are none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(sum(&self.metrics().await?, name, labels))
    }

    /// Waits until the operator calls itself ready: after its first sync.
    pub async fn ready(&self) -> Result {
        eventually(Duration::from_mins(1), "the operator is ready", async || {
            ensure!(self.container.running().await?, "it has ended: {}", self.container.logs().await?);
            http::get(self.metrics_at().await?, "localhost", "/readyz").await?.expect(200)?;
            Ok(())
        })
        .await
    }

    /// Runs `interlock …` beside it, as people do: `docker exec OPERATOR interlock …`.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Executed> {
        let mut words = vec!["interlock"];
        words.extend_from_slice(arguments);
        self.container.exec(&words).await
    }
}

/// The sum of a metric's samples in Prometheus' text format.
pub fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

impl Start<'_> {
    /// Another short name, for a second operator of one world.
    #[must_use]
    pub fn named(mut self, short: &str) -> Self {
        short.clone_into(&mut self.name);
        self
    }

    /// Settings of the configuration file, laid over those that keep tests apart.
    #[must_use]
    pub fn config(mut self, settings: Value) -> Self {
        merge(&mut self.config, settings);
        self
    }

    /// Another socket of the engine, by its path on the host.
    #[must_use]
    pub fn socket(mut self, path: &str) -> Self {
        path.clone_into(&mut self.socket);
        self
    }

    /// A bind mount or volume.
    #[must_use]
    pub fn volume(mut self, bind: &str) -> Self {
        self.volumes.push(bind.to_owned());
        self
    }

    /// A file in its container.
    #[must_use]
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.file_of_mode(path, content, 0o644)
    }

    /// The same with another mode.
    #[must_use]
    pub fn file_of_mode(mut self, path: &str, content: &[u8], mode: u32) -> Self {
        self.files.push((path.to_owned(), content.to_vec(), mode));
        self
    }

    /// Without a capability.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Self {
        self.without.push(capability.to_owned());
        self
    }

    /// One more argument of `interlock run`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// It hears nothing of an engine's stop, and so sees everybody else stop, until it is killed.
    #[must_use]
    pub fn outlives(mut self) -> Self {
        self.outlives = true;
        self
    }

    /// Operator and proxy in one container, in the network of the apps.
    #[must_use]
    pub fn embedded(mut self, kind: Kind, network: &str) -> Self {
        self.name = format!("embedded-{}", kind.as_str());
        self.config["operatorId"] = self.world.name(&self.name).into();
        self.arguments.extend(["--embedded".to_owned(), kind.as_str().to_owned()]);
        self.embedded = Some((kind.agent(), network.to_owned()));
        self
    }

    /// Starts it without waiting for anything.
    pub async fn start(self) -> Result<Operator> {
        const CONFIG: &str = "/etc/interlock/interlock.yaml";
        // Its network carries nothing but its metrics: the operator sits on no network of workloads or proxies.
        let (image, network) = match self.embedded {
            Some((image, network)) => (image, network),
            None => (IMAGE, self.world.network(&self.name).await?),
        };
        let mut command = vec!["run", "--config", CONFIG];
        command.extend(self.arguments.iter().map(String::as_str));
        let mut run = self
            .world
            .container(&self.name, image)
            .entrypoint(&["interlock"])
            .network(&network)
            .command(&command)
            .volume(&format!("{}:/var/run/docker.sock", self.socket))
            // JSON is YAML.
            .file(CONFIG, self.config.to_string());
        if self.outlives {
            // Which does nothing to whoever has not asked for it.
            run = run.stop_signal("SIGWINCH").stop_timeout(4);
        }
        for volume in &self.volumes {
            run = run.volume(volume);
        }
        for (path, content, mode) in self.files {
            run = run.file_of_mode(&path, content, mode);
        }
        for capability in &self.without {
            run = run.without(capability);
        }
        Ok(Operator { container: run.start().await?, network })
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(self) -> Result<Operator> {
        let operator = self.start().await?;
        operator.ready().await?;
        Ok(operator)
    }
}

/// Lays settings over others: objects field by field, anything else whole.
pub(crate) fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# HELP a b\nil_x 1\nil_x{k=\"a\"} 2\nil_x{k=\"b\"} 4\nil_xy 100\n";
        assert!((sum(text, "il_x", &[]) - 7.0).abs() < f64::EPSILON);
        assert!((sum(text, "il_x", &["k=\"b\""]) - 4.0).abs() < f64::EPSILON);
        assert!(sum(text, "il_z", &[]).abs() < f64::EPSILON);
    }

    #[test]
    fn settings_are_laid_over_each_other() {
        let mut base = json!({ "a": { "b": 1, "c": 2 }, "d": [1] });
        merge(&mut base, json!({ "a": { "b": 3 }, "d": [2, 3] }));
        assert_eq!(base, json!({ "a": { "b": 3, "c": 2 }, "d": [2, 3] }));
    }
}
