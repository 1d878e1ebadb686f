//! The kinds and the JSON Schema of each: what editors, `interlock explain` and the docs read.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::{API_VERSION, Configuration, Engine, Route, ServiceCluster};

/// What can be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Hosts and paths and where their requests go.
    Route,
    /// A proxy fleet.
    ServiceCluster,
    /// A Docker engine.
    Engine,
    /// The operator's own configuration.
    Configuration,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Route, Self::ServiceCluster, Self::Engine, Self::Configuration];

    /// As documents write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Route => "Route",
            Self::ServiceCluster => "ServiceCluster",
            Self::Engine => "Engine",
            Self::Configuration => "Configuration",
        }
    }

    /// The short name, for the command line.
    pub const fn short(self) -> &'static str {
        match self {
            Self::Route => "rt",
            Self::ServiceCluster => "sc",
            Self::Engine => "eng",
            Self::Configuration => "config",
        }
    }

    /// The plural, as paths of the API have it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Route => "routes",
            Self::ServiceCluster => "serviceclusters",
            Self::Engine => "engines",
            Self::Configuration => "configurations",
        }
    }

    /// Whether a namespace keeps its documents apart.
    pub const fn namespaced(self) -> bool {
        matches!(self, Self::Route)
    }

    /// The kind that a word means: its name in any case, in the plural too, or its short name.
    pub fn of(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            word == name || word.strip_suffix('s') == Some(&name) || word == kind.short()
        })
    }

    /// Plain JSON Schema of a document of this kind: `# yaml-language-server: $schema=…`.
    pub fn schema(self) -> Value {
        match self {
            Self::Route => document::<Route>(self),
            Self::ServiceCluster => document::<ServiceCluster>(self),
            Self::Engine => document::<Engine>(self),
            Self::Configuration => of::<Configuration>(self.as_str()),
        }
    }
}

/// The schema of a type, under a title.
pub fn of<T: JsonSchema>(title: &str) -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut schema = Schema::to_value(schema);
    schema["title"] = json!(title);
    schema.sort_all_objects();
    schema
}

fn document<T: JsonSchema>(kind: Kind) -> Value {
    let mut schema = of::<T>(kind.as_str());
    schema["properties"]["apiVersion"]["const"] = json!(API_VERSION);
    schema["properties"]["kind"]["const"] = json!(kind.as_str());
    schema
}
