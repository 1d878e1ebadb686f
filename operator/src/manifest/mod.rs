//! Manifests: YAML texts in, documents out; each bad one costs only itself and says where it is wrong.

pub mod compose;
pub mod judge;

use interlock_core::finding::shown;
use interlock_core::model::DocumentId;
use interlock_crds::schema::Kind;
use interlock_crds::{API_VERSION, DEFAULT_NAMESPACE, Engine, Metadata, Route, ServiceCluster};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::settings::cluster::Unfit;
use crate::settings::{self, Invalid};
use crate::yaml::{self, Position, YamlError};

/// A larger text is not read.
pub const MAX_TEXT: u64 = 10 * 1024 * 1024;

/// Brackets within brackets.
const MAX_DEPTH: usize = 100;

/// One document of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its kind and name, as far as they could be read.
    pub id: Option<(Kind, DocumentId)>,
    /// The line that it begins at.
    pub line: usize,
    /// What it says, or what is wrong with it.
    pub body: Result<Body, Box<Invalid>>,
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A `Route`.
    Route(Box<Route>),
    /// A `ServiceCluster`.
    ServiceCluster(Box<ServiceCluster>),
    /// An `Engine`.
    Engine(Box<Engine>),
}

/// Why a document of a kind that has a schema is not taken, and where that is written instead; none: it is.
pub const fn not_read(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Route | Kind::ServiceCluster => None,
        Kind::Engine | Kind::Configuration => {
            Some(("engines are not read from documents yet", "write it into `docker` of the configuration"))
        }
    }
}

/// A document as people name it: what has no namespace by its name alone.
pub fn title(kind: Kind, id: &DocumentId) -> String {
    if kind.namespaced() {
        format!("{} {id}", kind.as_str())
    } else {
        format!("{} {}", kind.as_str(), id.name())
    }
}

/// The documents of a text; `origin` says whose it is.
pub fn read(origin: &str, text: &str) -> Vec<Document> {
    pieces(text).into_iter().map(|(line, piece)| document(origin, line, piece)).collect()
}

/// What stands between the document markers, with the line that each begins at; what is blank is none.
fn pieces(text: &str) -> Vec<(usize, &str)> {
    let mut pieces = Vec::new();
    let (mut start, mut first, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        // A marker stands at the very beginning of its line, also within a block of text (YAML 1.2, 9.1.4).
        let bare = line.trim_end();
        if bare == "---" || bare == "..." || line.starts_with("--- ") {
            pieces.push((first, &text[start..at]));
            let marker = if bare.len() == 3 { line.len() } else { 4 };
            (start, first) = (at + marker, index + if bare.len() == 3 { 2 } else { 1 });
        }
        at += line.len();
    }
    pieces.push((first, text.get(start..).unwrap_or_default()));
    let blank = |text: &str| {
        text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with(['#', '%']))
    };
    pieces.retain(|(_, piece)| !blank(piece));
    pieces
}

/// What says which document it is; everything else is judged afterwards.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<Name>,
}

#[derive(Deserialize)]
struct Name {
    name: Option<String>,
    namespace: Option<String>,
}

fn document(origin: &str, line: usize, text: &str) -> Document {
    let piece = Piece { origin, line, text };
    if too_deep(text) {
        let message = format!("it is nested more than {MAX_DEPTH} times");
        let error = YamlError { field: String::new(), position: None, message, fix: None };
        return Document { id: None, line, body: Err(piece.invalid(error)) };
    }
    let head = match yaml::from_str::<Head>(text) {
        Ok(head) => head,
        Err(error) => return Document { id: None, line, body: Err(piece.invalid(error)) },
    };
    match piece.named(&head) {
        Err(invalid) => Document { id: None, line, body: Err(invalid) },
        Ok((kind, id)) => Document { id: Some((kind, id)), line, body: piece.body(kind) },
    }
}

/// Whether brackets are nested deeper than any document needs: the parser takes the square of their number, and a
/// hundred thousand cost it minutes. Brackets within texts count too, which can only refuse what nobody writes.
fn too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// One document's text and where it stands.
struct Piece<'t> {
    origin: &'t str,
    line: usize,
    text: &'t str,
}

impl Piece<'_> {
    fn named(&self, head: &Head) -> Result<(Kind, DocumentId), Box<Invalid>> {
        match head.api_version.as_deref() {
            Some(API_VERSION) => {}
            other => return Err(self.wrong("apiVersion", other, API_VERSION)),
        }
        let known = [Kind::Route, Kind::ServiceCluster, Kind::Engine];
        let kind = known.into_iter().find(|kind| head.kind.as_deref() == Some(kind.as_str()));
        let kind = kind.ok_or_else(|| {
            self.wrong("kind", head.kind.as_deref(), &known.map(Kind::as_str).join("` or `"))
        })?;
        let name = head.metadata.as_ref().and_then(|metadata| metadata.name.as_deref());
        let name = name.ok_or_else(|| self.wrong("metadata.name", None, "a name of its own"))?;
        let namespace = head.metadata.as_ref().and_then(|metadata| metadata.namespace.as_deref());
        if let Some(namespace) = namespace.filter(|given| !kind.namespaced() && *given != DEFAULT_NAMESPACE) {
            let message = format!("a {} is in no namespace, not in `{}`", kind.as_str(), shown(namespace));
            return Err(self.at("metadata.namespace", message, Some("leave it out".to_owned())));
        }
        let id = DocumentId::new(namespace.unwrap_or(DEFAULT_NAMESPACE), name).map_err(|error| {
            let field = if error.what == "namespace" { "metadata.namespace" } else { "metadata.name" };
            self.at(field, error.to_string(), None)
        })?;
        Ok((kind, id))
    }

    fn body(&self, kind: Kind) -> Result<Body, Box<Invalid>> {
        match kind {
            Kind::Route => self.typed().map(|route| Body::Route(Box::new(route))),
            Kind::ServiceCluster => self.cluster(),
            Kind::Engine | Kind::Configuration => self.typed().map(|engine| Body::Engine(Box::new(engine))),
        }
    }

    fn cluster(&self) -> Result<Body, Box<Invalid>> {
        let cluster: ServiceCluster = self.typed()?;
        match settings::cluster::check(&cluster.spec) {
            Ok(()) => Ok(Body::ServiceCluster(Box::new(cluster))),
            Err(Unfit { field, message, fix }) => Err(self.at(&format!("spec.{field}"), message, Some(fix))),
        }
    }

    fn typed<T: DeserializeOwned>(&self) -> Result<T, Box<Invalid>> {
        yaml::from_str(self.text).map_err(|error| self.invalid(error))
    }

    fn wrong(&self, field: &str, found: Option<&str>, wanted: &str) -> Box<Invalid> {
        let message = match found {
            Some(found) => {
                format!("`{}` is not one that this version knows", shown(found))
            }
            None => "it is not there".to_owned(),
        };
        self.at(field, message, Some(format!("write `{wanted}`")))
    }

    fn at(&self, field: &str, message: String, fix: Option<String>) -> Box<Invalid> {
        let position = yaml::locate(self.text, field);
        self.invalid(YamlError { field: field.to_owned(), position, message, fix })
    }

    /// An error with its position in the whole text.
    fn invalid(&self, error: YamlError) -> Box<Invalid> {
        let mut invalid = Invalid::of(self.origin.to_owned(), self.text, error);
        invalid.position =
            invalid.position.map(|Position { line, column }| Position { line: line + self.line - 1, column });
        Box::new(invalid)
    }
}

impl Document {
    /// The line of a field in the text that the document is from.
    pub fn locate(&self, text: &str, field: &str) -> Option<usize> {
        let (_, piece) = pieces(text).into_iter().find(|(line, _)| *line == self.line)?;
        Some(yaml::locate(piece, field)?.line + self.line - 1)
    }

    /// What a field of it says, where that is a number, a word or the like.
    pub fn value(&self, text: &str, field: &str) -> Option<serde_json::Value> {
        let (_, piece) = pieces(text).into_iter().find(|(line, _)| *line == self.line)?;
        let whole = if too_deep(piece) { return None } else { yaml::value(piece).ok()? };
        let pointer = field.replace(['.', '['], "/").replace(']', "");
        whole.pointer(&format!("/{pointer}")).filter(|value| !value.is_object() && !value.is_array()).cloned()
    }
}

impl Body {
    /// Its name and whose it is.
    pub const fn metadata(&self) -> &Metadata {
        match self {
            Self::Route(route) => &route.metadata,
            Self::ServiceCluster(cluster) => &cluster.metadata,
            Self::Engine(engine) => &engine.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, spec: &str) -> String {
        format!("apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n{spec}")
    }

    const SPEC: &str = "  hostnames: [a.example.com]\n  rules: [{backendRefs: [{name: web}]}]\n";

    /// What is wrong with each document, by the line that it begins at.
    fn told(text: &str) -> Vec<String> {
        read("a.yaml", text)
            .into_iter()
            .map(|document| match document.body {
                Ok(_) => format!("{}: good", document.line),
                Err(invalid) => format!("{}: {}", document.line, invalid.brief()),
            })
            .collect()
    }

    #[test]
    fn documents_are_told_apart_and_a_bad_one_costs_only_itself() {
        let text = format!(
            "# a comment\n---\n{}---\n{}...\n---\n\n--- # last\n{}",
            route("one", SPEC),
            route("two", "  hostnames: 5\n  rules: []\n"),
            route("three", SPEC)
        );
        assert_eq!(
            told(&text),
            ["3: good", "10: a.yaml:14:14: `spec.hostnames`: integer `5` where a list is wanted", "19: good",]
        );
        let ids: Vec<_> =
            read("a.yaml", &text).into_iter().map(|one| one.id.unwrap().1.to_string()).collect();
        assert_eq!(ids, ["default/one", "default/two", "default/three"]);
    }

    #[test]
    fn whatever_is_wrong_is_named_with_its_place() {
        for (text, expected) in [
            (route("a", "  hostnames: [\n"), "1: a.yaml:"),
            (
                route("a", &format!("{SPEC}  wam: true\n")),
                "1: a.yaml:7:3: `spec.wam`: there is no such field",
            ),
            (route("Shop", SPEC), "1: a.yaml:3:18: `metadata.name`: `Shop` is not a valid document name"),
            (route("a", SPEC).replace("Route", "Ingress"), "1: a.yaml:2:7: `kind`: `Ingress` is not one"),
            (
                route("a", SPEC).replace("v1alpha1", "v9"),
                "1: a.yaml:1:13: `apiVersion`: `interlock.dev/v9` is",
            ),
            ("kind: Route\n".to_owned(), "1: a.yaml: `apiVersion`: it is not there"),
            (route("a", "  hostnames: []\n"), "1: a.yaml:5:3: `spec`: missing field `rules`"),
            (format!("{}kind: Route\n", route("a", SPEC)), "1: a.yaml:1:1: duplicate field `kind`"),
            ("just text\n".to_owned(), "1: a.yaml:1:1: "),
        ] {
            let told = told(&text);
            assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}, not {expected}");
        }
    }

    /// Each level names the one below ten times: 10^9 texts if it were followed.
    #[test]
    fn a_bomb_is_refused() {
        let mut text =
            "apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata:\n  name: a\nspec:\n  x0: &x0 [lol]\n"
                .to_owned();
        for level in 1..10 {
            let below = vec![format!("*x{}", level - 1); 10].join(", ");
            text = format!("{text}  x{level}: &x{level} [{below}]\n");
        }
        text.push_str("  hostnames: *x9\n  rules: []\n");
        assert_eq!(told(&text).len(), 1);
        assert!(!told(&text)[0].contains("good"));
        let deep = route("a", &format!("  hostnames: {}\n", "[".repeat(100_000)));
        assert_eq!(told(&deep), ["1: a.yaml: it is nested more than 100 times"]);
        let long = route("a", &format!("  hostnames: [{}]\n  rules: []\n", "a.example.com, ".repeat(50_000)));
        assert_eq!(told(&long), ["1: good"]);
    }
}
