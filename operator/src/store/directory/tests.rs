//! What a log says after whatever was cut off it, and what is refused.

use super::*;
use crate::store::object::{Change, Key, Spec, Stored};
use interlock_crds::schema::Kind;
use interlock_crds::{Metadata, RouteSpec};
use std::sync::Arc;

/// A write of a route whose host says which write it was.
fn batch(revision: u64, name: &str) -> Batch {
    let key = Key::new(Kind::Route, "default", name).unwrap();
    let metadata = Metadata {
        name: name.to_owned(),
        namespace: Some("default".to_owned()),
        resource_version: Some(revision.to_string()),
        ..Metadata::default()
    };
    let spec = RouteSpec { hostnames: vec![format!("h{revision}.example.com")], ..RouteSpec::default() };
    Batch {
        revision,
        at: String::new(),
        changes: vec![Change::Put(Arc::new(Stored { key, metadata, spec: Spec::Route(spec.into()) }))],
    }
}

/// A log of these writes.
fn written(directory: &Path, batches: &[Batch]) -> Content {
    let (mut log, mut content) = Directory::open(directory).unwrap();
    for batch in batches {
        content.take(batch);
        log.commit(batch, &content).unwrap();
    }
    content
}

#[test]
fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut batches = vec![batch(1, "a"), batch(2, "b"), batch(3, "a")];
    batches.push(Batch {
        revision: 4,
        at: String::new(),
        changes: vec![Change::Delete(Key::new(Kind::Route, "default", "b").unwrap())],
    });
    let content = written(folder.path(), &batches);
    assert_eq!(content.objects.len(), 1);
    assert_eq!(Directory::open(folder.path()).unwrap().1, content);
    assert_eq!(Directory::look(folder.path()).unwrap(), content);
}

/// However much of the last write is missing, the ones before are there and the next ones follow them.
#[test]
fn a_write_that_was_cut_off_at_any_byte_never_was() {
    let folder = tempfile::tempdir().unwrap();
    let before = written(folder.path(), &[batch(1, "a"), batch(2, "b")]);
    let path = folder.path().join("objects.log");
    let short = fs::read(&path).unwrap();
    let after = written(folder.path(), &[batch(3, "a")]);
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > short.len());
    for cut in short.len()..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (mut log, content) = Directory::open(folder.path()).unwrap();
        let expected = if cut == whole.len() { &after } else { &before };
        assert_eq!(&content, expected, "{cut} of {} bytes", whole.len());
        let mut then = content.clone();
        then.take(&batch(9, "c"));
        log.commit(&batch(9, "c"), &then).unwrap();
        drop(log);
        assert_eq!(Directory::look(folder.path()).unwrap(), then, "{cut} bytes, and a write after them");
    }
}

#[test]
fn damage_before_good_writes_is_told_and_nothing_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &[batch(1, "a"), batch(2, "b")]);
    let path = folder.path().join("objects.log");
    let text = fs::read_to_string(&path).unwrap().replacen("h1.example", "h7.example", 1);
    fs::write(&path, &text).unwrap();
    let error = Directory::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("line 2 is not what was written"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::write(&path, "").unwrap();
    assert!(matches!(Directory::open(folder.path()), Err(StoreError::Damaged { .. })));
}

#[test]
fn what_is_newer_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.log");
    fs::write(&path, sealed(r#"{"format":"interlock.dev/objects","version":99,"shards":3}"#)).unwrap();
    let error = Directory::open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("written by a newer Interlock (format 99, this one knows 2); run that version"),
        "{error}"
    );

    let head = sealed(r#"{"format":"interlock.dev/objects","version":1}"#);
    let put = r#"{"apiVersion":"interlock.dev/v1alpha1","kind":"Route","metadata":{"name":"a"},"spec":{"hostnames":[],"rules":[],"quic":1}}"#;
    fs::write(&path, format!("{head}{}", sealed(&format!(r#"{{"revision":1,"put":[{put}]}}"#)))).unwrap();
    let error = Directory::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds `Route default/a`") && error.contains("unknown field `quic`"), "{error}");
    assert!(error.contains("run the version that wrote it"), "{error}");
}

#[test]
fn a_log_that_is_mostly_past_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, mut content) = Directory::open(folder.path()).unwrap();
    let padded = |revision: u64| {
        let mut batch = batch(revision, "a");
        if let Some(Change::Put(stored)) = batch.changes.first_mut() {
            let padding = "x".repeat(100_000);
            Arc::make_mut(stored).metadata.annotations.insert("padding".to_owned(), padding);
        }
        batch
    };
    for revision in 1..=40 {
        let batch = padded(revision);
        content.take(&batch);
        log.commit(&batch, &content).unwrap();
    }
    drop(log);
    let size = fs::metadata(folder.path().join("objects.log")).unwrap().len();
    assert!(size < 1_000_000, "{size} bytes for one object of 100,000 and its only generation");
    assert_eq!(Directory::look(folder.path()).unwrap(), content);
}

#[test]
fn one_operator_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let first = Directory::open(folder.path()).unwrap();
    assert!(matches!(Directory::open(folder.path()), Err(StoreError::Busy { .. })));
    // One that ends is waited for.
    let path = folder.path().to_owned();
    let second = std::thread::spawn(move || Directory::open(&path).map(|_| ()));
    drop(first);
    second.join().unwrap().unwrap();
}

/// However often the log was written anew, the last generations of each object are there.
#[test]
fn history_outlives_the_log_that_it_came_with() {
    let folder = tempfile::tempdir().unwrap();
    let batches: Vec<Batch> = (1..=200)
        .map(|number| {
            let mut batch = batch(number, if number % 2 == 0 { "a" } else { "b" });
            for change in &mut batch.changes {
                let Change::Put(stored) = change else { continue };
                let stored = Arc::make_mut(stored);
                stored.metadata.generation = Some(number);
                stored.metadata.annotations.insert("padding".to_owned(), "x".repeat(2_000));
            }
            Batch { at: format!("{number}"), ..batch }
        })
        .collect();
    let content = written(folder.path(), &batches);
    let length = fs::metadata(folder.path().join("objects.log")).unwrap().len();
    assert!(length < 200 * 2_000, "it was written anew: {length}");
    let again = Directory::open(folder.path()).unwrap().1;
    assert_eq!(again, content);
    let key = Key::new(Kind::Route, "default", "a").unwrap();
    let kept: Vec<(u64, &str)> =
        again.history.of(&key).map(|one| (one.stored.generation(), one.at.as_str())).collect();
    assert_eq!((kept.len(), kept.first(), kept.last()), (10, Some(&(182, "182")), Some(&(200, "200"))));
}

/// The format before history is read, and becomes the present one before anything is added to it.
#[test]
fn a_log_of_the_first_format_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let content = written(folder.path(), &[batch(1, "a"), batch(2, "b")]);
    let path = folder.path().join("objects.log");
    let lines: Vec<String> = fs::read_to_string(&path)
        .unwrap()
        .lines()
        .map(|line| {
            let text = line.split_once(' ').unwrap().1;
            sealed(&text.replace("\"version\":2", "\"version\":1").replace("\"at\":\"\",", ""))
        })
        .collect();
    assert!(lines[0].contains("\"version\":1") && !lines.concat().contains("\"at\""), "{lines:?}");
    fs::write(&path, lines.concat()).unwrap();
    assert_eq!(Directory::look(folder.path()).unwrap(), content);
    assert_eq!(Directory::open(folder.path()).unwrap().1, content);
    assert!(fs::read_to_string(&path).unwrap().contains("\"version\":2"));
}
