//! Certificate folders as people have them: one file, two files, rotations, and what goes wrong.

use super::*;

fn issue(names: &[&str]) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn folders(path: &Path) -> BTreeMap<ClusterName, PathBuf> {
    BTreeMap::from([("web".parse().unwrap(), path.to_owned())])
}

fn view<'a>(views: &'a BTreeMap<CertificateName, CertificateView>, name: &str) -> &'a CertificateView {
    &views[&name.parse().unwrap()]
}

#[test]
fn a_key_is_found_in_the_file_beside_it_or_anywhere_in_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let (one, one_key) = issue(&["shop.example.com", "*.shop.example.com"]);
    write("one.pem", &format!("{one_key}{one}"));
    let (two, two_key) = issue(&["two.example.com"]);
    write("two.crt", &two);
    write("two.key", &two_key);
    let (three, three_key) = issue(&["three.example.com"]);
    write("three.cert", &three);
    write("private-of-three.pem", &three_key);
    write("notes.txt", "no certificate");
    fs::create_dir(dir.path().join("folder.pem")).unwrap();

    let (views, secrets) = scan(dir.path());
    assert_eq!(
        views.keys().map(CertificateName::as_str).collect::<Vec<_>>(),
        ["one.pem", "three.cert", "two.crt"]
    );
    assert!(views.values().all(|v| v.fault.is_none()), "{views:?}");
    let names: Vec<String> = view(&views, "one.pem").names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop.example.com", "*.shop.example.com"]);
    let text = &secrets[&view(&views, "two.crt").digest].0;
    assert!(CertificateDer::from_pem_slice(text.as_bytes()).is_ok());
    assert_eq!(
        PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap(),
        PrivateKeyDer::from_pem_slice(two_key.as_bytes()).unwrap()
    );
    assert_eq!(view(&views, "two.crt").digest, Digest::of([text.as_bytes()]), "the digest is the content's");
}

#[test]
fn faults_are_named_and_cost_only_their_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let (good, good_key) = issue(&["good.example.com"]);
    write("good.pem", &format!("{good}{good_key}"));
    let (other, _) = issue(&["other.example.com"]);
    let (_, foreign_key) = issue(&["foreign.example.com"]);
    write("mismatch.crt", &other);
    write("mismatch.key", &foreign_key);
    let (alone, _) = issue(&["alone.example.com"]);
    write("alone.crt", &alone);
    write("junk.pem", "hello");
    write("cut.pem", &format!("{}\n", &good[..good.len() / 2]));

    let (views, secrets) = scan(dir.path());
    let fault = |name: &str| view(&views, name).fault.clone().unwrap_or_default();
    assert_eq!(fault("good.pem"), "");
    assert!(
        fault("mismatch.crt").contains("mismatch.key") && fault("mismatch.crt").contains("does not belong"),
        "{}",
        fault("mismatch.crt")
    );
    assert!(fault("alone.crt").contains("alone.key"), "{}", fault("alone.crt"));
    assert!(fault("junk.pem").contains("no certificate"), "{}", fault("junk.pem"));
    assert!(!fault("cut.pem").is_empty());
    assert_eq!(secrets.len(), 1);
    assert!(!format!("{views:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn a_rotation_shows_the_new_and_still_reads_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let (first, first_key) = issue(&["a.example.com"]);
    fs::write(dir.path().join("a.pem"), format!("{first}{first_key}")).unwrap();
    let (mut seen, reader) = spawn(watch::channel(folders(dir.path())).1);
    let cluster: ClusterName = "web".parse().unwrap();
    let before = view(&seen.borrow_and_update()[&cluster], "a.pem").digest.clone();
    assert!(reader.get(&before).is_some());

    let (second, second_key) = issue(&["b.example.com"]);
    fs::write(dir.path().join("new"), format!("{second}{second_key}")).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("a.pem")).unwrap();
    let wait = seen.wait_for(|all| view(&all[&cluster], "a.pem").digest != before);
    let after = {
        let now = tokio::time::timeout(Duration::from_secs(40), wait).await.unwrap().unwrap();
        view(&now[&cluster], "a.pem").digest.clone()
    };
    assert!(reader.get(&after).is_some() && reader.get(&before).is_some());
    assert_eq!(format!("{reader:?}"), "SecretReader");
}

#[tokio::test]
async fn a_half_replaced_pair_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = issue(&["a.example.com"]);
    fs::write(dir.path().join("a.crt"), &cert).unwrap();
    fs::write(dir.path().join("a.key"), &key).unwrap();
    let (mut seen, _reader) = spawn(watch::channel(folders(dir.path())).1);
    let cluster: ClusterName = "web".parse().unwrap();
    let before = view(&seen.borrow_and_update()[&cluster], "a.crt").digest.clone();

    let (cert, key) = issue(&["a.example.com"]);
    fs::write(dir.path().join("a.crt"), &cert).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await; // the time between the two files of a real rotation
    fs::write(dir.path().join("a.key"), &key).unwrap();
    tokio::time::timeout(Duration::from_secs(40), seen.changed()).await.unwrap().unwrap();
    let now = seen.borrow();
    let view = view(&now[&cluster], "a.crt");
    assert_eq!(view.fault, None);
    assert_ne!(view.digest, before);
}
