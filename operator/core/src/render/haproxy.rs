//! Renders the HAProxy side.

use interlock_crds::ProxyKind;

use super::{RenderError, Templates};
use crate::assign::Assignment;
use crate::bundle::{Bundle, Fragment, Live};
use crate::plan::{Abilities, Plan};

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] =
    &[("haproxy/global.j2", include_str!("../../../../templates/haproxy/global.j2"))];

/// The HAProxy bundle of a plan.
pub(super) fn render(
    plan: &Plan,
    assignment: &Assignment,
    _abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    let main = Fragment {
        file: "haproxy.cfg".to_owned(),
        name: "global".to_owned(),
        text: templates.fill("haproxy/global.j2", &plan.settings)?,
        servers: None,
        intents: Vec::new(),
    };
    let live = Live { servers: assignment.servers.clone(), ..Live::default() };
    Ok(Bundle::new(
        plan.target.clone(),
        plan.cluster.clone(),
        ProxyKind::Haproxy,
        vec![main],
        live,
        Vec::new(),
    ))
}
