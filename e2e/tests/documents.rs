//! Routes as documents: a folder of them serves containers that have no label, and a bad one costs only itself.

use interlock_e2e::stage::{Proxy, SOON, Stage, serving};
use interlock_e2e::world::Kind;
use interlock_e2e::{Operator, Result, World, ensure, eventually};
use serde_json::json;

const FOLDER: &str = "/documents";

fn route(name: &str, host: &str, container: &str) -> String {
    format!(
        "apiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n  \
         hostnames: [{host}]\n  rules:\n  - backendRefs: [{{name: {container}}}]\n"
    )
}

/// Both proxies and an operator that follows a folder with one document in it.
async fn stage<'w>(world: &'w World, first: &str) -> Result<Stage<'w>> {
    let network = world.network("net").await?;
    let operator = Operator::of(world).config(json!({ "manifests": FOLDER }));
    let operator = operator.file(&format!("{FOLDER}/shop.yaml"), first.as_bytes()).start().await?;
    let mut proxies = Vec::new();
    for kind in Kind::ALL {
        let container = world.proxy(kind, &network).start().await?;
        let http = serving(&container, &network).await?;
        proxies.push(Proxy { kind, container, http });
    }
    Ok(Stage { world, network, operators: vec![operator], proxies })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_documents_is_followed() -> Result {
    World::run("documents", async |world| {
        let host = world.host("shop");
        let one = route("shop", &host, &world.name("one"));
        let two = route("shop", &host, &world.name("two"));
        let stage = stage(world, &one).await?;
        let file = format!("{FOLDER}/shop.yaml");
        let operator = stage.operator();
        stage.app("one").start().await?;
        stage.serves(&host, "/", "one").await?;

        stage.app("two").start().await?;
        operator.container.put(&file, two.as_bytes()).await?;
        stage.serves(&host, "/", "two").await?;

        // What is wrong is told, what was good stays, and the next document counts all the same.
        let other = world.host("other");
        let bad = two.replace("backendRefs", "backendRef");
        let both = format!("{bad}---\n{}", route("other", &other, &world.name("one")));
        operator.container.put(&file, both.as_bytes()).await?;
        stage.serves(&other, "/", "one").await?;
        stage.serves(&host, "/", "two").await?;
        eventually(SOON, "lint tells where the document is wrong", async || {
            let lint = operator.cli(&["lint"]).await?;
            ensure!(lint.out.contains("shop.yaml:7:5"), "{} {}", lint.out, lint.err);
            Ok(())
        })
        .await?;

        operator.container.put(&file, b"# nothing any more\n").await?;
        stage.answers(&host, "/", 404).await
    })
    .await
}
