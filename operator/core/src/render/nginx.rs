//! Renders the nginx side.

use interlock_crds::ProxyKind;

use super::{RenderError, Templates};
use crate::bundle::{Bundle, Fragment, Live};
use crate::plan::{Abilities, Plan};

/// The embedded templates by name.
pub(super) const TEMPLATES: &[(&str, &str)] =
    &[("nginx/main.j2", include_str!("../../../../templates/nginx/main.j2"))];

/// The nginx bundle of a plan.
pub(super) fn render(
    plan: &Plan,
    _abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    let main = Fragment {
        file: "nginx.conf".to_owned(),
        name: "main".to_owned(),
        text: templates.fill("nginx/main.j2", &plan.settings)?,
        servers: None,
        intents: Vec::new(),
    };
    Ok(Bundle::new(
        plan.target.clone(),
        plan.cluster.clone(),
        ProxyKind::Nginx,
        vec![main],
        Live::default(),
        Vec::new(),
    ))
}
