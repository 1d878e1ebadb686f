//! What may be written over what, and what watchers hear.

use super::*;
use interlock_crds::RouteSpec;

fn put(name: &str, host: &str) -> Put {
    let spec = RouteSpec { hostnames: vec![host.to_owned()], ..RouteSpec::default() };
    Put {
        key: Key::new(Kind::Route, "default", name).unwrap(),
        metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
        spec: Spec::Route(spec.into()),
        new: false,
        held: None,
    }
}

/// A backend that only promises.
#[derive(Debug)]
struct Promises;

impl Backend for Promises {
    fn commit(&mut self, _: &Batch, _: &Content) -> Result<(), StoreError> {
        Ok(())
    }
}

fn objects() -> Objects {
    Objects::new(Some(Box::new(Promises)), Content::default(), Vec::new())
}

fn write(objects: &Objects, put: Vec<Put>) -> Result<Vec<Done>, Refusal> {
    objects.write(Asked { put, ..Asked::default() })
}

fn numbers(objects: &Objects, name: &str) -> (u64, u64) {
    let seen = objects.get(&Key::new(Kind::Route, "default", name).unwrap()).unwrap();
    (seen.stored.revision(), seen.stored.generation())
}

#[test]
fn every_write_counts_and_only_a_new_spec_is_a_new_generation() {
    let objects = objects();
    let done = write(&objects, vec![put("a", "a.example.com"), put("b", "b.example.com")]).unwrap();
    assert!(done.iter().all(|done| done.outcome == Outcome::Created));
    assert_eq!((numbers(&objects, "a"), numbers(&objects, "b")), ((1, 1), (2, 1)));
    assert_eq!(write(&objects, vec![put("a", "a.example.com")]).unwrap()[0].outcome, Outcome::Unchanged);
    assert_eq!(numbers(&objects, "a"), (1, 1));
    let mut labelled = put("a", "a.example.com");
    labelled.metadata.labels.insert("team".to_owned(), "shop".to_owned());
    assert_eq!(write(&objects, vec![labelled]).unwrap()[0].outcome, Outcome::Configured);
    assert_eq!(numbers(&objects, "a"), (3, 1));
    write(&objects, vec![put("a", "new.example.com")]).unwrap();
    assert_eq!(numbers(&objects, "a"), (4, 2));
}

#[test]
fn who_names_a_write_replaces_that_one_alone() {
    let objects = objects();
    write(&objects, vec![put("a", "a.example.com")]).unwrap();
    let as_of = |revision: &str, host: &str| {
        let mut put = put("a", host);
        put.metadata.resource_version = Some(revision.to_owned());
        write(&objects, vec![put])
    };
    as_of("1", "b.example.com").unwrap();
    assert!(matches!(as_of("1", "c.example.com"), Err(Refusal::Conflict { found, .. }) if found == "2"));
    assert_eq!(numbers(&objects, "a"), (2, 2));
    let gone = Asked { delete: vec![(put("a", "").key, Some(1))], ..Asked::default() };
    assert!(matches!(objects.write(gone), Err(Refusal::Conflict { .. })));
}

#[test]
fn one_bad_object_of_many_stops_all_of_them() {
    let objects = objects();
    write(&objects, vec![put("a", "a.example.com")]).unwrap();
    let mut new = put("a", "b.example.com");
    new.new = true;
    assert!(matches!(write(&objects, vec![put("b", "b.example.com"), new]), Err(Refusal::Exists(_))));
    let twice = vec![put("c", "c.example.com"), put("c", "d.example.com")];
    assert!(matches!(write(&objects, twice), Err(Refusal::Twice(_))));
    assert_eq!(objects.all().1.len(), 1);
}

#[test]
fn an_owner_prunes_its_own_and_never_everything() {
    let objects = objects();
    let apply = |owner: &str, names: &[&str], prune: bool| {
        let others = if prune { Others::OwnersGo } else { Others::Stay };
        let put = names.iter().map(|name| put(name, "a.example.com")).collect();
        objects.write(Asked { put, owner: Some(owner.to_owned()), others, ..Asked::default() })
    };
    let names = || -> Vec<String> {
        objects.all().1.iter().map(|seen| seen.stored.key.id.name().to_owned()).collect()
    };
    write(&objects, vec![put("free", "a.example.com")]).unwrap();
    apply("shop", &["a", "b"], true).unwrap();
    apply("wiki", &["c"], true).unwrap();
    apply("shop", &["b"], true).unwrap();
    assert_eq!(names(), ["b", "c", "free"]);
    assert!(matches!(apply("shop", &[], true), Err(Refusal::PrunesAll(_))));
    assert!(matches!(apply("shop", &["c"], false), Err(Refusal::Owned { owner, .. }) if owner == "wiki"));
    // Without a word on owners it stays whose it was.
    write(&objects, vec![put("b", "new.example.com")]).unwrap();
    apply("shop", &["d"], true).unwrap();
    assert_eq!(names(), ["c", "d", "free"]);
}

#[test]
fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let objects = objects();
    let asked = Asked { put: vec![put("a", "a.example.com")], dry_run: true, ..Asked::default() };
    assert_eq!(objects.write(asked).unwrap()[0].outcome, Outcome::Created);
    assert!(objects.all().1.is_empty());
}

#[test]
fn watchers_hear_everything_once_and_in_order() {
    let objects = objects();
    write(&objects, vec![put("a", "a.example.com")]).unwrap();
    let mut feed = objects.watch(None).unwrap();
    assert_eq!((feed.first.len(), feed.revision), (1, 1));
    write(&objects, vec![put("a", "b.example.com"), put("b", "b.example.com")]).unwrap();
    objects.write(Asked { delete: vec![(put("a", "").key, None)], ..Asked::default() }).unwrap();
    let told = |news: &[News]| -> Vec<(u64, Happened)> {
        news.iter().map(|news| (news.revision, news.happened)).collect()
    };
    let mut heard = told(&feed.then.try_recv().unwrap());
    heard.extend(told(&feed.then.try_recv().unwrap()));
    let all = [(2, Happened::Modified), (3, Happened::Added), (4, Happened::Deleted)];
    assert_eq!(heard, all);
    assert_eq!(told(&objects.watch(Some(1)).unwrap().first), all);
    assert_eq!(told(&objects.watch(Some(3)).unwrap().first), all[2..]);
    assert!(objects.watch(Some(5)).is_err());
}

#[test]
fn what_was_missed_too_long_ago_is_expired() {
    let objects = objects();
    for write_number in 0..=RECENT {
        write(&objects, vec![put("a", &format!("h{write_number}.example.com"))]).unwrap();
    }
    assert!(objects.watch(Some(0)).is_ok(), "without a number everything is told");
    assert_eq!(objects.watch(Some(1)).unwrap().first.len(), RECENT);
    write(&objects, vec![put("a", "last.example.com")]).unwrap();
    assert!(objects.watch(Some(1)).is_err());
}

#[test]
fn selectors_are_those_of_kubectl() {
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    for (text, takes) in [
        ("", true),
        ("a=1", true),
        ("a==1,b=2", true),
        ("a=2", false),
        ("a!=2,b", true),
        ("!c", true),
        ("!a", false),
        ("c", false),
    ] {
        assert_eq!(text.parse::<Selector>().unwrap().takes(&labels), takes, "{text}");
    }
    assert!("=1".parse::<Selector>().is_err());
}
