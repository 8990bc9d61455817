//! The stories of `golden/`, as they are written there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::path::PathBuf;

use raft_tests::story;

fn stories() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}

#[test]
fn every_story_goes_as_it_is_written() {
    let stories = stories();
    assert!(stories.len() >= 12, "{stories:?}");
    for path in stories {
        story::check(&path, false).unwrap();
    }
}

#[test]
fn a_story_told_twice_is_the_same() {
    for path in stories() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(story::retell(&text).unwrap() == story::retell(&text).unwrap(), "{path:?}");
    }
}
