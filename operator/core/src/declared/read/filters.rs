//! The filters of a rule: what is done to a request and its answer.

use interlock_crds::{FilterType, HeaderModifier, PathModifierType, ProxyKind, RouteFilter, RouteRule};

use super::Reader;
use super::redirects::Way;
use crate::finding::{Reason, Verdict, shown};
use crate::intent::said::Fault;
use crate::intent::value;
use crate::model::{HostPattern, Hostname, NameError, PathPrefix};
use crate::policy::{HeaderChanges, HeaderError, HeaderName, NewPath, Policy, Redirect};

/// What the filters of a rule come to.
pub(super) struct Filters {
    pub(super) rewrite: bool,
    pub(super) https_only: bool,
    pub(super) closed: bool,
    pub(super) policy: Changes,
}

/// What the filters of a rule change in a request or its answer.
#[derive(Clone, Default)]
pub(super) struct Changes {
    pub(super) redirect: Option<Redirect>,
    host: Option<Hostname>,
    path: Option<PathPrefix>,
    request: HeaderChanges,
    response: HeaderChanges,
}

impl Changes {
    /// What a rule's filters come to below one of its paths.
    pub(super) fn over(self, policy: &mut Policy, below: &PathPrefix) {
        let Self { mut redirect, host, path, request, response } = self;
        if let Some(Redirect { path: Some(NewPath::Prefix { from, .. }), .. }) = &mut redirect {
            from.clone_from(below);
        }
        *policy = Policy { redirect, host, path, request, response, ..policy.clone() };
    }
}

impl Reader<'_> {
    pub(super) fn filters(&mut self, field: &str, rule: &RouteRule, hosts: &[HostPattern]) -> Filters {
        let mut all =
            Filters { rewrite: false, https_only: false, closed: false, policy: Changes::default() };
        for (at, filter) in rule.filters.iter().enumerate() {
            let field = format!("{field}.filters[{at}]");
            all.closed |= !self.whole(&field, filter);
            all.closed |= !self.changes(&field, filter, &mut all.policy);
            if let (FilterType::UrlRewrite, Some(rewrite)) = (filter.kind, &filter.url_rewrite)
                && let Some(path) = rewrite.path.as_ref()
                && path.kind == PathModifierType::ReplacePrefixMatch
            {
                all.rewrite = true;
                let to = path.replace_prefix_match.as_deref().unwrap_or("/");
                if !["", "/"].contains(&to) {
                    let message = format!("a prefix can be stripped, not replaced by `{}`", shown(to));
                    let fault = Fault::value(message).reason(Reason::NotSupported).write("/");
                    let field = format!("{field}.urlRewrite.path.replacePrefixMatch");
                    self.bad(&field, fault.verdict(Verdict::Refused));
                    all.closed = true;
                }
            }
            if let (FilterType::RequestRedirect, Some(to)) = (filter.kind, &filter.request_redirect) {
                match self.redirect(&format!("{field}.requestRedirect"), to, hosts) {
                    Some(Way::ToHttps) => all.https_only = true,
                    Some(Way::There(redirect)) => all.policy.redirect = Some(redirect),
                    None => all.closed = true,
                }
            }
        }
        let rewrites = rule.filters.iter().any(|filter| filter.kind == FilterType::UrlRewrite);
        if rewrites && all.policy.redirect.is_some() {
            let message = "a rule sends clients elsewhere or rewrites for its backends, not both";
            self.bad(&format!("{field}.filters"), Fault::value(message).verdict(Verdict::Refused));
            all.closed = true;
        }
        all
    }

    /// Takes down what a filter changes, and whether all of it can be done that the backend relies on.
    fn changes(&mut self, field: &str, filter: &RouteFilter, all: &mut Changes) -> bool {
        let mut whole = true;
        match filter.kind {
            FilterType::UrlRewrite => {
                let rewrite = filter.url_rewrite.as_ref();
                if let Some(text) = rewrite.and_then(|rewrite| rewrite.hostname.as_ref()) {
                    let read = text.parse().map_err(|error: NameError| Fault::value(error.to_string()));
                    all.host = self.relied_on(&format!("{field}.urlRewrite.hostname"), read);
                    whole &= all.host.is_some();
                }
                let path = rewrite.and_then(|rewrite| rewrite.path.as_ref());
                if let Some(path) = path.filter(|path| path.kind == PathModifierType::ReplaceFullPath) {
                    let read = value::path(path.replace_full_path.as_deref().unwrap_or("/"));
                    all.path = self.relied_on(&format!("{field}.urlRewrite.path.replaceFullPath"), read);
                    whole &= all.path.is_some();
                }
            }
            FilterType::RequestHeaderModifier => {
                let (changes, good) =
                    self.headers(field, "requestHeaderModifier", filter.request_header_modifier.as_ref());
                (all.request, whole) = (changes, good);
            }
            FilterType::ResponseHeaderModifier => {
                let (changes, good) =
                    self.headers(field, "responseHeaderModifier", filter.response_header_modifier.as_ref());
                (all.response, whole) = (changes, good);
            }
            FilterType::RequestRedirect => {}
        }
        whole
    }

    pub(super) fn relied_on<T>(&mut self, field: &str, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.bad(field, fault.verdict(Verdict::Refused))).ok()
    }

    /// The changes of a modifier, and whether they are all that was asked for.
    fn headers(&mut self, field: &str, name: &str, asked: Option<&HeaderModifier>) -> (HeaderChanges, bool) {
        let mut changes = HeaderChanges::default();
        let Some(asked) = asked else { return (changes, true) };
        let mut told = Vec::new();
        let mut fault =
            |at: String, error: &HeaderError| told.push((format!("{field}.{name}.{at}"), error.to_string()));
        for (what, from, to) in [("set", &asked.set, &mut changes.set), ("add", &asked.add, &mut changes.add)]
        {
            for (at, one) in from.iter().enumerate() {
                match (one.name.parse(), one.value.parse()) {
                    (Ok(name), Ok(value)) => to.push((name, value)),
                    (Err(error), _) => fault(format!("{what}[{at}].name"), &error),
                    (_, Err(error)) => fault(format!("{what}[{at}].value"), &error),
                }
            }
        }
        for (at, text) in asked.remove.iter().enumerate() {
            match text.parse() {
                Ok(name) => changes.remove.push(name),
                Err(error) => fault(format!("remove[{at}]"), &error),
            }
        }
        let names: Vec<&HeaderName> = changes.names().collect();
        let twice =
            names.iter().enumerate().find(|(at, name)| names[..*at].iter().any(|it| it.is(name.as_str())));
        if let Some((_, twice)) = twice {
            told.push((format!("{field}.{name}"), format!("`{twice}` is there more than once")));
        }
        if names.len() > HeaderChanges::MOST {
            let message = format!("it changes {} headers; {} are the most", names.len(), HeaderChanges::MOST);
            told.push((format!("{field}.{name}"), message));
        }
        // nginx says both by itself, whatever the backend says.
        let own = |one: &&&HeaderName| one.is("Server") || one.is("Date");
        if let Some(one) = names.iter().find(own).filter(|_| self.cluster.proxy == ProxyKind::Nginx) {
            told.push((format!("{field}.{name}"), format!("nginx alone decides `{one}`")));
        }
        let good = told.is_empty();
        for (field, message) in told {
            self.bad(&field, Fault::value(message).verdict(Verdict::Refused));
        }
        (changes, good)
    }

    /// Whether a filter has the field that its type asks for.
    fn whole(&mut self, field: &str, filter: &RouteFilter) -> bool {
        let (name, there) = match filter.kind {
            FilterType::UrlRewrite => ("urlRewrite", filter.url_rewrite.is_some()),
            FilterType::RequestRedirect => ("requestRedirect", filter.request_redirect.is_some()),
            FilterType::RequestHeaderModifier => {
                ("requestHeaderModifier", filter.request_header_modifier.is_some())
            }
            FilterType::ResponseHeaderModifier => {
                ("responseHeaderModifier", filter.response_header_modifier.is_some())
            }
        };
        if !there {
            let message = format!("its type asks for `{name}`, which is not there");
            self.bad(field, Fault::value(message).verdict(Verdict::Refused));
        }
        there
    }
}
