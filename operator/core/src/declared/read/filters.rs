//! The filters of a rule: what is done to a request and its answer.

use interlock_crds::{FilterType, PathModifierType, RouteFilter, RouteRule};

use super::Reader;
use crate::declared::fields::{self, Cost};
use crate::finding::{Reason, Verdict, shown};
use crate::intent::said::Fault;

/// What the filters of a rule come to.
pub(super) struct Filters {
    pub(super) rewrite: bool,
    pub(super) https_only: bool,
    pub(super) closed: bool,
}

impl Reader<'_> {
    pub(super) fn filters(&mut self, field: &str, rule: &RouteRule) -> Filters {
        let mut all = Filters { rewrite: false, https_only: false, closed: false };
        for (at, filter) in rule.filters.iter().enumerate() {
            let field = format!("{field}.filters[{at}]");
            let cost = self.refuse(&field, &fields::of_filter(filter));
            all.closed |= cost == Some(Cost::Closed) || !self.whole(&field, filter);
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
                all.https_only = to.scheme.as_deref() == Some("https");
                if !all.https_only {
                    let fault = Fault::value("plain HTTP can be sent to HTTPS, and nothing else");
                    let fault = fault.reason(Reason::NotSupported).write("https");
                    self.bad(&format!("{field}.requestRedirect.scheme"), fault.verdict(Verdict::Refused));
                    all.closed = true;
                }
                if to.status_code.is_some_and(|code| code != self.cluster.redirect_status.status()) {
                    let path = "rules.filters.requestRedirect.statusCode";
                    self.refuse(&field, &[("requestRedirect.statusCode", path)]);
                }
            }
        }
        all
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
