//! Render: a Plan, an assignment and abilities to a Bundle. Equal input, equal bytes.

mod again;
mod haproxy;
mod nginx;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interlock_crds::ProxyKind;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use crate::assign::{self, Assignment};
use crate::bundle::{Bundle, Receipt};
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
    filled: Filled,
}

/// What was filled with which values before: a thousand backends are not filled anew because one changed.
/// Clones share it; equal values give equal text, with it or without.
#[derive(Debug, Clone, Default)]
struct Filled(Arc<Mutex<HashMap<Values, String>>>);

/// A template's name, and what it was filled with as JSON.
type Values = (&'static str, String);

/// Texts that are remembered at most; beyond, all are forgotten.
const REMEMBERED: usize = 20_000;

impl Filled {
    fn texts(&self) -> MutexGuard<'_, HashMap<Values, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, values: &Values) -> Option<String> {
        self.texts().get(values).cloned()
    }

    fn keep(&self, values: Values, text: &str) {
        let mut texts = self.texts();
        if texts.len() >= REMEMBERED {
            texts.clear();
        }
        texts.insert(values, text.to_owned());
    }
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
        Self { texts, environment, filled: Filled::default() }
    }

    fn get(&self, name: &str) -> Result<minijinja::Template<'_, '_>, RenderError> {
        self.environment
            .get_template(name)
            .map_err(|source| RenderError::Template { name: name.to_owned(), source })
    }

    /// The template `name` filled with `values`.
    fn fill(&self, name: &'static str, values: impl Serialize) -> Result<String, RenderError> {
        let key = serde_json::to_string(&values).ok().map(|json| (name, json));
        if let Some(text) = key.as_ref().and_then(|key| self.filled.get(key)) {
            return Ok(text);
        }
        let text = self
            .get(name)?
            .render(minijinja::value::Serde(values))
            .map_err(|source| RenderError::Template { name: name.to_owned(), source })?;
        if let Some(key) = key {
            self.filled.keep(key, &text);
        }
        Ok(text)
    }
}

/// What makes a proxy with these abilities serve the plan, from where it stands: without a reload if what it
/// runs has room for the plan, else with everything in its place and spares for those who come after.
pub fn bundle(
    plan: &Plan,
    last: Option<&Receipt>,
    abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    bundle_after(None, plan, last, abilities, templates)
}

/// The same, with a plan and its bundle for the same abilities and templates; the answer does not depend on them.
pub fn bundle_after(
    known: Option<(&Plan, &Bundle)>,
    plan: &Plan,
    last: Option<&Receipt>,
    abilities: Abilities,
    templates: &Templates,
) -> Result<Bundle, RenderError> {
    if abilities.proxy == ProxyKind::Nginx {
        return render(plan, &Assignment::default(), abilities, templates);
    }
    if let (Some(known), Some(last)) = (known, last)
        && let Some(bundle) = again::bundle(known, last, plan)
    {
        return Ok(bundle);
    }
    if let Some(last) = last
        && let Some(kept) = assign::keep(plan, last)
    {
        let bundle = render(plan, &kept, abilities, templates)?;
        if bundle.static_digest == last.static_digest {
            return Ok(bundle);
        }
    }
    render(plan, &assign::afresh(plan, last), abilities, templates)
}

/// Renders a plan in an assignment; nginx has none.
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
