//! The folder of documents, changed under the reader's eyes.

use super::*;

fn route(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: interlock.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\n\
         spec: {{hostnames: [{host}], rules: [{{backendRefs: [{{name: web}}]}}]}}\n"
    )
}

fn take(keeper: &mut Keeper, texts: &[(&str, &str)]) -> Declared {
    keeper.take(&Ok(texts.iter().map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned()))).collect()))
}

fn hosts(declared: &Declared) -> Vec<String> {
    declared.routes.iter().map(|(id, spec)| format!("{id} {}", spec.hostnames.join(","))).collect()
}

#[test]
fn a_bad_document_costs_only_itself_and_stays_as_it_was() {
    let mut keeper = Keeper::default();
    let both = route("a", "a.example.com") + &route("b", "b.example.com");
    take(&mut keeper, &[("x.yaml", &both)]);
    let bad = route("a", "a.example.com").replace("rules", "rule") + &route("b", "new.example.com");
    let declared = take(&mut keeper, &[("x.yaml", &bad)]);
    assert_eq!(hosts(&declared), ["default/a a.example.com", "default/b new.example.com"]);
    let [fault] = declared.faults.as_slice() else { panic!("{:?}", declared.faults) };
    assert_eq!((fault.verdict, fault.reason), (Verdict::Degraded, Reason::InvalidDocument));
    assert!(fault.message.starts_with("x.yaml:5:"), "{}", fault.message);
    assert!(fault.message.ends_with("as it was before stays: Route default/a"), "{}", fault.message);
    // A document that never was good is not there.
    let fresh = take(&mut Keeper::default(), &[("x.yaml", &bad)]);
    assert_eq!(hosts(&fresh), ["default/b new.example.com"]);
}

#[test]
fn a_text_that_cannot_be_told_apart_keeps_what_its_file_said() {
    let mut keeper = Keeper::default();
    let two = [("x.yaml", route("a", "a.example.com")), ("y.yaml", route("b", "b.example.com"))];
    take(&mut keeper, &two.each_ref().map(|(name, text)| (*name, text.as_str())));
    let declared = take(&mut keeper, &[("x.yaml", "]["), ("y.yaml", "")]);
    assert_eq!(hosts(&declared), ["default/a a.example.com"]);
    let declared = keeper.take(&Err("gone".to_owned()));
    assert_eq!(
        hosts(&declared),
        ["default/a a.example.com"],
        "a folder that cannot be read is not an empty one"
    );
    assert_eq!(hosts(&take(&mut keeper, &[])), Vec::<String>::new());
}

#[test]
fn of_two_documents_of_one_name_the_first_counts() {
    let (one, two) = (route("a", "a.example.com"), route("a", "b.example.com"));
    let declared = take(&mut Keeper::default(), &[("x.yaml", &one), ("y.yaml", &two)]);
    assert_eq!(hosts(&declared), ["default/a a.example.com"]);
    assert_eq!(declared.faults[0].reason, Reason::DuplicateDocument);
    assert!(declared.faults[0].message.contains("in x.yaml already"), "{}", declared.faults[0].message);
}

#[test]
fn what_has_not_changed_is_the_very_same_value() {
    let mut keeper = Keeper::default();
    let before = take(&mut keeper, &[("x.yaml", &route("a", "a.example.com"))]);
    let after = take(&mut keeper, &[("y.yaml", &route("a", "a.example.com"))]);
    let id: DocumentId = "default/a".parse().unwrap();
    assert!(before.routes[&id].is(&after.routes[&id]));
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let large = fs::File::create(folder.path().join("large.yaml")).unwrap();
    large.set_len(MAX_TEXT + 1).unwrap();
    fs::write(folder.path().join("small.yml"), route("a", "a.example.com")).unwrap();
    fs::write(folder.path().join("note.txt"), "no document").unwrap();
    let declared = look(Some(folder.path()));
    assert_eq!(hosts(&declared), ["default/a a.example.com"]);
    assert_eq!(declared.faults.len(), 1);
    assert!(declared.faults[0].message.contains("larger than 10 MiB"), "{}", declared.faults[0].message);
    assert_eq!(hosts(&look(Some(&folder.path().join("small.yml")))), ["default/a a.example.com"]);
}

#[tokio::test]
async fn documents_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = spawn(Some(folder.path().to_path_buf()));
    assert!(seen.borrow().is_empty());
    fs::write(folder.path().join("a.yaml"), route("a", "a.example.com")).unwrap();
    let wait = seen.wait_for(|found| hosts(found) == ["default/a a.example.com"]);
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap().unwrap();
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    let wait = seen.wait_for(|found| found.is_empty());
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap().unwrap();
}

/// A cluster that turns bad stays as it was; one that goes is gone, and what was applied goes before it.
#[test]
fn clusters_are_documents_like_any_other() {
    let cluster = |spec: &str| {
        format!(
            "apiVersion: interlock.dev/v1alpha1\nkind: ServiceCluster\nmetadata: {{name: edge}}\nspec: {spec}\n"
        )
    };
    let ports = |declared: &Declared| -> Vec<u16> {
        declared.clusters.values().map(|spec| spec.listeners.http).collect()
    };
    let mut keeper = Keeper::default();
    let good = take(&mut keeper, &[("x.yaml", &cluster("{proxy: haproxy, listeners: {http: 81}}"))]);
    assert_eq!((ports(&good), good.faults.len()), (vec![81], 0));
    let bad = take(&mut keeper, &[("x.yaml", &cluster("{proxy: haproxy, listeners: {http: 0}}"))]);
    assert_eq!(ports(&bad), [81]);
    assert!(bad.faults[0].message.contains("`spec.listeners.http`: `0` is not a port"), "{:?}", bad.faults);
    assert!(
        bad.faults[0].message.ends_with("as it was before stays: ServiceCluster edge"),
        "{:?}",
        bad.faults
    );
    let applied = Declared {
        clusters: take(
            &mut Keeper::default(),
            &[("y.yaml", &cluster("{proxy: haproxy, listeners: {http: 82}}"))],
        )
        .clusters,
        ..Declared::default()
    };
    let both = both(&good.into(), &applied.into());
    assert_eq!((ports(&both), both.faults[0].reason), (vec![82], Reason::DuplicateDocument));
    assert!(ports(&take(&mut keeper, &[("x.yaml", "")])).is_empty());
}
