//! The `RequestRedirect` filter: where clients are sent.

use interlock_crds::{PathModifier, PathModifierType, RequestRedirect};

use super::Reader;
use crate::finding::{Reason, Verdict, shown};
use crate::intent::said::Fault;
use crate::intent::value;
use crate::model::{HostPattern, Hostname, NameError, PathPrefix, Port};
use crate::policy::{NewPath, Redirect, Scheme, Status, own_ports};

/// What a redirect comes to.
pub(super) enum Way {
    /// Plain HTTP is sent to HTTPS, and that is served.
    ToHttps,
    /// Everybody is sent there.
    There(Redirect),
}

impl Reader<'_> {
    /// None: it cannot be done as it stands, and that is told.
    pub(super) fn redirect(
        &mut self,
        field: &str,
        to: &RequestRedirect,
        hosts: &[HostPattern],
    ) -> Option<Way> {
        let redirect = self.there(field, to)?;
        let Redirect { scheme, host, port, path, status } = &redirect;
        let own = own_ports(self.cluster);
        let own_host = host.as_ref().is_none_or(|host| hosts.iter().any(|one| one.covers(host)));
        if path.is_some() || !own_host || port.is_some_and(|port| !own.contains(&port.get())) {
            return Some(Way::There(redirect));
        }
        if *scheme != Some(Scheme::Https) || host.is_some() {
            let message =
                "it leads back to itself: only `scheme: https` alone lets through who is already there";
            self.bad(field, Fault::value(message).verdict(Verdict::Refused));
            return None;
        }
        let cluster = [self.cluster.listeners.https, self.cluster.redirect_status.status()];
        let asked = [port.map(Port::get), to.status_code.map(|_| u16::from(*status))];
        let names = [("port", "listeners.https"), ("statusCode", "redirectStatus")];
        for ((name, setting), (asked, cluster)) in names.into_iter().zip(asked.into_iter().zip(cluster)) {
            if asked.is_some_and(|asked| asked != cluster) {
                let message =
                    format!("plain HTTP is sent to HTTPS by the cluster's `{setting}`, which is {cluster}");
                self.bad(&format!("{field}.{name}"), Fault::value(message).reason(Reason::NotSupported));
            }
        }
        Some(Way::ToHttps)
    }

    fn there(&mut self, field: &str, to: &RequestRedirect) -> Option<Redirect> {
        let at = |name: &str| format!("{field}.{name}");
        let name = |error: NameError| Fault::value(error.to_string());
        let scheme = match to.scheme.as_deref() {
            None => Ok(None),
            Some("http") => Ok(Some(Scheme::Http)),
            Some("https") => Ok(Some(Scheme::Https)),
            Some(other) => {
                Err(Fault::value(format!("`{}` is neither `http` nor `https`", shown(other))).write("https"))
            }
        };
        let scheme = self.relied_on(&at("scheme"), scheme);
        let host: Result<Option<Hostname>, Fault> =
            to.hostname.as_ref().map(|text| text.parse().map_err(name)).transpose();
        let host = self.relied_on(&at("hostname"), host);
        let port = to.port.map(|port| Port::try_from(port).map_err(name)).transpose();
        let port = self.relied_on(&at("port"), port);
        let (path_field, path) = new_path(to.path.as_ref());
        let path = self.relied_on(&at(path_field), path);
        let status = to.status_code.unwrap_or_else(|| self.cluster.redirect_status.status());
        let status = Status::try_from(status).map_err(|error| Fault::value(error.to_string()).write("302"));
        let status = self.relied_on(&at("statusCode"), status);
        Some(Redirect { scheme: scheme?, host: host?, port: port?, path: path?, status: status? })
    }
}

/// The path that is asked for, and the field that says it. Which prefix is replaced depends on the match.
fn new_path(asked: Option<&PathModifier>) -> (&'static str, Result<Option<NewPath>, Fault>) {
    let Some(asked) = asked else { return ("path", Ok(None)) };
    let read = |text: &Option<String>| value::path(text.as_deref().unwrap_or("/"));
    match asked.kind {
        PathModifierType::ReplaceFullPath => {
            ("path.replaceFullPath", read(&asked.replace_full_path).map(|path| Some(NewPath::Full(path))))
        }
        PathModifierType::ReplacePrefixMatch => {
            let prefix = |to| Some(NewPath::Prefix { from: PathPrefix::root(), to });
            ("path.replacePrefixMatch", read(&asked.replace_prefix_match).map(prefix))
        }
    }
}
