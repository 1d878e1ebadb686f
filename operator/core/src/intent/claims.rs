//! Claims: who may ask a cluster for which hosts.

use interlock_crds::ClaimSpec;

use super::{Parsed, digest};
use crate::finding::{Finding, Reason, Subject, Verdict, shown};
use crate::model::{HostPattern, Owner};

/// The entry that takes a host away from an owner; none: it may have it.
pub(crate) fn denies<'c>(
    claims: &'c [ClaimSpec],
    host: &HostPattern,
    owner: &Owner,
) -> Option<&'c ClaimSpec> {
    let decides = claims.iter().find(|claim| claim.hosts.iter().any(|pattern| names(pattern, host)))?;
    (!decides.owners.iter().any(|pattern| is(pattern, owner))).then_some(decides)
}

/// Whether a pattern of a claim names a host, which may be a wildcard itself.
fn names(pattern: &str, host: &HostPattern) -> bool {
    if pattern == "*" {
        return true;
    }
    let Ok(pattern) = pattern.parse::<HostPattern>() else { return false };
    match (&pattern, host) {
        (_, HostPattern::Exact(host)) => pattern.covers(host),
        (HostPattern::Wildcard(all), HostPattern::Wildcard(some)) => all == some || pattern.covers(some),
        (HostPattern::Exact(_), HostPattern::Wildcard(_)) => false,
    }
}

fn is(pattern: &str, owner: &Owner) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => owner.as_str().starts_with(begin),
        None => owner.as_str() == pattern,
    }
}

/// To whom an entry gives its hosts, for people.
pub(crate) fn whom(claim: &ClaimSpec) -> String {
    let owners: Vec<String> = claim.owners.iter().map(|owner| format!("`{}`", shown(owner))).collect();
    if owners.is_empty() { "nobody".to_owned() } else { owners.join(", ") }
}

/// Takes away what a container may not claim; a route that is left without any host is none.
pub(super) fn settle(claims: &[ClaimSpec], subject: &Subject, parsed: &mut Parsed) {
    if claims.is_empty() {
        return;
    }
    let Parsed { intents, findings } = parsed;
    intents.retain_mut(|intent| {
        let (owner, path, name) = (&intent.owner, &intent.path, &intent.name);
        let before = intent.hosts.len();
        intent.hosts.retain(|host| {
            let Some(claim) = denies(claims, host, owner) else { return true };
            let message =
                format!("`{name}` ({owner}) asks for {host}, which `claims` gives to {}", whom(claim));
            let subject = subject.clone().with_route(format!("{host}{path}"));
            let fix =
                format!("choose another host, or add `{owner}` to the `owners` of that entry of `claims`");
            findings.push(Finding::new(Verdict::Refused, Reason::HostNotAllowed, subject, message).fix(fix));
            false
        });
        if intent.hosts.len() != before {
            intent.digest = digest(intent);
        }
        !intent.hosts.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(claims: &[(&[&str], &[&str])], host: &str, owner: &str) -> bool {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        let claims: Vec<ClaimSpec> = claims
            .iter()
            .map(|(hosts, owners)| ClaimSpec { hosts: texts(hosts), owners: texts(owners) })
            .collect();
        denies(&claims, &host.parse().unwrap(), &owner.parse().unwrap()).is_none()
    }

    #[test]
    fn the_first_entry_that_names_a_host_decides() {
        let claims: &[(&[&str], &[&str])] = &[
            (&["shop.example.com"], &["compose:shop/*"]),
            (&["*.example.com"], &["route:ops/edge"]),
            (&["closed.example.org"], &[]),
        ];
        for (host, owner, expected) in [
            ("shop.example.com", "compose:shop/web", true),
            ("shop.example.com", "compose:shopping/web", false),
            ("shop.example.com", "route:ops/edge", false),
            ("other.example.com", "route:ops/edge", true),
            ("other.example.com", "route:ops/edges", false),
            ("*.example.com", "compose:shop/web", false),
            ("*.a.example.com", "compose:shop/web", false),
            ("*.example.com", "route:ops/edge", true),
            ("example.com", "compose:any/one", true),
            ("closed.example.org", "route:ops/edge", false),
            ("elsewhere.example.net", "compose:any/one", true),
        ] {
            assert_eq!(allowed(claims, host, owner), expected, "{owner} and {host}");
        }
        assert!(!allowed(&[(&["*"], &["compose:a/*"])], "any.example.com", "image:nginx"));
        assert!(allowed(&[(&["*"], &["*"])], "any.example.com", "image:nginx"));
    }
}
