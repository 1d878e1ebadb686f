//! The owner: the identity behind a container that outlives its next deployment.

use super::keys::Setting;
use super::said::{Fault, Pick, Reader};
use crate::finding::{Reason, Verdict};
use crate::model::{Container, NameError, Owner};

const COMPOSE: &str = "com.docker.compose.";
const SWARM_SERVICE: &str = "com.docker.swarm.service.id";

/// Who created and replaces a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manager<'a> {
    /// A compose project and its service.
    Compose { project: &'a str, service: &'a str },
    /// A Swarm service, by id.
    Swarm { service: &'a str },
}

/// The manager of a container, if it has one.
pub(super) fn manager(container: &Container) -> Option<Manager<'_>> {
    let label = |key: &str| container.labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
    if let Some(project) = label("com.docker.compose.project")
        && made_by_compose(container)
    {
        return Some(Manager::Compose {
            project,
            service: label("com.docker.compose.service").unwrap_or(""),
        });
    }
    label(SWARM_SERVICE).map(|service| Manager::Swarm { service })
}

/// `docker compose build` writes the project and the service into the image, so that any container of it
/// has them; one that compose made also has labels that no image has.
fn made_by_compose(container: &Container) -> bool {
    let of_compose = container.labels.iter().filter(|(key, _)| key.starts_with(COMPOSE));
    of_compose.into_iter().any(|(key, value)| container.image_labels.get(key) != Some(value))
}

/// The owner: its manager's, else the label's, else the image's repository.
pub(super) fn owner(container: &Container, reader: &mut Reader<'_>) -> Owner {
    let said = reader.one(Setting::Owner, |text| {
        text.parse::<Owner>().map_err(|error: NameError| Fault::value(error.to_string()).write("shop"))
    });
    let managed = manager(container).map(|manager| match manager {
        Manager::Compose { project, service } => Owner::lossy(&format!("compose:{project}/{service}")),
        Manager::Swarm { service } => Owner::lossy(&format!("swarm:{service}")),
    });
    match (managed, said) {
        (Some(managed), Pick::Good(said)) if said != managed => {
            let message = format!("`interlock.owner` is set aside: the container belongs to `{managed}`");
            reader.push(Verdict::Note, Reason::Overridden, Some("interlock.owner"), message, None);
            managed
        }
        (Some(managed), _) => managed,
        (None, Pick::Good(said)) => said,
        (None, _) => Owner::lossy(&format!("image:{}", repository(&container.image))),
    }
}

/// The repository of an image reference: no digest, no tag, no `docker.io/library/`. A bare image id stays.
fn repository(image: &str) -> &str {
    if image.starts_with("sha256:") {
        return image;
    }
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = match name.get(last..).and_then(|base| base.find(':')) {
        Some(colon) => name.get(..last + colon).unwrap_or(name),
        None => name,
    };
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}
