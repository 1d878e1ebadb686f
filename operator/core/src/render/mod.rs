//! Render: a Plan, an assignment and abilities to a Bundle. Equal input, equal bytes.

mod haproxy;
mod nginx;

use std::collections::BTreeMap;
use std::sync::Arc;

use interlock_crds::ProxyKind;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use crate::assign::Assignment;
use crate::bundle::Bundle;
use crate::plan::{Abilities, Plan};

/// Headers beside `X-Forwarded-For`, `-Proto`, `-Host` and `-Port` by which a client could pass for
/// somebody else; both proxies drop them unless the peer is trusted.
const FORGED_HEADERS: &[&str] =
    &["Forwarded", "X-Forwarded-Prefix", "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Ssl"];

/// Why nothing could be rendered. With the embedded templates it cannot happen.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// An override for a template that does not exist.
    #[error("there is no template `{name}`; there are {known}")]
    UnknownTemplate {
        /// The name that was given.
        name: String,
        /// Every name, separated by commas.
        known: String,
    },
    /// A template does not parse, or asks for a value that it is not given.
    #[error("the template `{name}` cannot be used")]
    Template {
        /// Which.
        name: String,
        /// What the template engine says, with the line.
        #[source]
        source: minijinja::Error,
    },
}

/// The templates that fragments are made of: one for each fragment, embedded, each overridable.
#[derive(Debug, Clone)]
pub struct Templates {
    texts: Arc<BTreeMap<&'static str, String>>,
    environment: Environment<'static>,
}

impl Default for Templates {
    fn default() -> Self {
        Self::embedded()
    }
}

impl Templates {
    /// The templates that come with the binary.
    pub fn embedded() -> Self {
        let texts = haproxy::TEMPLATES.iter().chain(nginx::TEMPLATES);
        Self::of(texts.map(|(name, text)| (*name, (*text).to_owned())).collect())
    }

    /// The same, with the template `name` (as `haproxy/backend.j2`) replaced by `text`.
    ///
    /// A text that does not parse is refused here; one that asks for unknown values, when rendering.
    pub fn with_override(self, name: &str, text: &str) -> Result<Self, RenderError> {
        let Some((known, _)) = self.texts.get_key_value(name) else {
            let known: Vec<&str> = self.texts.keys().copied().collect();
            return Err(RenderError::UnknownTemplate { name: name.to_owned(), known: known.join(", ") });
        };
        let mut texts = (*self.texts).clone();
        texts.insert(known, text.to_owned());
        let replaced = Self::of(texts);
        replaced.get(name)?;
        Ok(replaced)
    }

    /// Every template's name and text, overrides included: what a user copies to begin an override.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (*name, text.as_str()))
    }

    fn of(texts: BTreeMap<&'static str, String>) -> Self {
        let texts = Arc::new(texts);
        let mut environment = Environment::new();
        // Configuration files are no HTML: nothing is escaped, because only types that cannot hold a
        // directive reach a template. A missing value is an error, never an empty line.
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(true)
                .build()
                .expect("the usual delimiters are a valid syntax"),
        );
        let shared = Arc::clone(&texts);
        environment.set_loader(move |name: &str| Ok(shared.get(name).cloned()));
        Self { texts, environment }
    }

    fn get(&self, name: &str) -> Result<minijinja::Template<'_, '_>, RenderError> {
        self.environment
            .get_template(name)
            .map_err(|source| RenderError::Template { name: name.to_owned(), source })
    }

    /// The template `name` filled with `values`.
    fn fill(&self, name: &str, values: impl Serialize) -> Result<String, RenderError> {
        self.get(name)?
            .render(minijinja::value::Serde(values))
            .map_err(|source| RenderError::Template { name: name.to_owned(), source })
    }
}

/// Renders what makes a proxy with these abilities serve the plan.
pub fn render(
    plan: &Plan,
    assignment: &Assignment,
    abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    match abilities.proxy {
        ProxyKind::Haproxy => haproxy::render(plan, assignment, abilities, templates),
        ProxyKind::Nginx => nginx::render(plan, abilities, templates),
    }
}
