//! Renders the nginx side: one `nginx.conf`, everything in fragments, nothing that changes without a reload.

mod base;
mod host;
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use interlock_crds::ProxyKind;

use self::base::{Http, Identity, Listens, Main};
use self::host::{Server, Upstream};
use super::{RenderError, Templates};
use crate::bundle::{Bundle, Fragment, Live, SecretRef};
use crate::model::{Digest, HostPattern, Port, Shared};
use crate::plan::{Abilities, Backend, BackendId, Plan, Route};

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] = &[
    ("nginx/main.j2", include_str!("../../../../templates/nginx/main.j2")),
    ("nginx/http.j2", include_str!("../../../../templates/nginx/http.j2")),
    ("nginx/identity.j2", include_str!("../../../../templates/nginx/identity.j2")),
    ("nginx/headers.j2", include_str!("../../../../templates/nginx/headers.j2")),
    ("nginx/gate.j2", include_str!("../../../../templates/nginx/gate.j2")),
    ("nginx/backend.j2", include_str!("../../../../templates/nginx/backend.j2")),
    ("nginx/host.j2", include_str!("../../../../templates/nginx/host.j2")),
    ("nginx/end.j2", include_str!("../../../../templates/nginx/end.j2")),
];

/// The file that all fragments belong to.
const FILE: &str = "nginx.conf";

/// The nginx bundle of a plan.
pub(super) fn render(
    plan: &Plan,
    abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    let listens = Listens::of(plan, abilities);
    let mut fragments = vec![
        base("main", templates.fill("nginx/main.j2", Main::of(plan))?),
        base("http", templates.fill("nginx/http.j2", Http::of(plan, abilities, &listens))?),
        base("identity", templates.fill("nginx/identity.j2", Identity::of(plan, &listens))?),
    ];
    let added_to = policy::added_to(plan);
    if !added_to.is_empty() {
        fragments
            .push(base("headers", templates.fill("nginx/headers.j2", policy::Names { names: added_to })?));
    }
    for (name, (gate, intents)) in policy::gates(plan) {
        fragments.push(Fragment {
            file: FILE.to_owned(),
            name,
            text: templates.fill("nginx/gate.j2", gate)?,
            intents: intents.into_iter().collect(),
            ..Fragment::default()
        });
    }
    for backend in &plan.backends {
        if let Some(view) = Upstream::of(backend) {
            fragments.push(Fragment {
                file: FILE.to_owned(),
                name: format!("backend {}", backend.id),
                text: templates.fill("nginx/backend.j2", view)?,
                intents: backend.intents.clone(),
                ..Fragment::default()
            });
        }
    }
    let backends: BTreeMap<&BackendId, &Backend> = plan.backends.iter().map(|b| (&b.id, &**b)).collect();
    for (host, routes) in by_host(&plan.routes) {
        let intents: BTreeSet<Digest> = routes
            .iter()
            .filter_map(|route| backends.get(&route.backend))
            .flat_map(|backend| backend.intents.iter().cloned())
            .collect();
        fragments.push(Fragment {
            file: FILE.to_owned(),
            name: format!("host {host}"),
            text: templates.fill("nginx/host.j2", Server::of(plan, host, &routes, &backends, &listens))?,
            intents: intents.into_iter().collect(),
            ..Fragment::default()
        });
    }
    fragments.push(base("end", templates.fill("nginx/end.j2", ())?));
    let secrets = plan
        .certificates
        .values()
        .map(|it| SecretRef { file: format!("{}.pem", it.digest.as_str()), digest: it.digest.clone() })
        .collect();
    let bundle = Bundle::new(
        plan.target.clone(),
        plan.cluster.clone(),
        ProxyKind::Nginx,
        fragments,
        Live::default(),
        secrets,
    );
    Ok(match Port::try_from(plan.settings.listeners.http) {
        Ok(port) => bundle.with_confirm_port(port),
        Err(_) => bundle,
    })
}

/// A fragment that every configuration has: no route is to blame for it.
fn base(name: &str, text: String) -> Fragment {
    Fragment { file: FILE.to_owned(), name: name.to_owned(), text, ..Fragment::default() }
}

fn by_host(routes: &[Shared<Route>]) -> BTreeMap<&HostPattern, Vec<&Route>> {
    let mut hosts: BTreeMap<&HostPattern, Vec<&Route>> = BTreeMap::new();
    for route in routes {
        hosts.entry(&route.host).or_default().push(route);
    }
    hosts
}
