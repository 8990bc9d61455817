//! What lasts, and what does not.

use rand::SeedableRng as _;

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

struct Disk {
    tree: Tree,
    _directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::create(&directory.path().join("objects")).unwrap();
        Self { tree, _directory: directory }
    }

    fn at(&mut self, name: &str) -> u64 {
        self.tree.lookup(ROOT, name.as_ref()).unwrap().inode
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> u64 {
        let inode = self.tree.make(ROOT, name.as_ref(), false).unwrap().inode;
        self.tree.write(inode, 0, bytes, NOW).unwrap();
        inode
    }

    fn names(&mut self) -> Vec<String> {
        let names = self.tree.names(ROOT).unwrap();
        names.into_iter().map(|(name, _)| name.into_string().unwrap()).collect()
    }

    fn objects(&self) -> usize {
        fs::read_dir(&self.tree.objects).unwrap().count()
    }
}

#[test]
fn a_file_lasts_where_it_and_its_directory_were_synced() {
    let mut disk = Disk::new();
    let both = disk.put("both", b"all");
    disk.put("name", b"lost");
    disk.tree.sync(both).unwrap();
    disk.tree.sync_directory(ROOT).unwrap();
    let bytes = disk.put("bytes", b"lost with its name");
    disk.tree.sync(bytes).unwrap();
    disk.tree.lose(None).unwrap();
    assert_eq!(disk.names(), ["both", "name"]);
    let (both, name) = (disk.at("both"), disk.at("name"));
    assert_eq!(disk.tree.read(both, 0, 9).unwrap(), b"all");
    assert_eq!(disk.tree.read(name, 0, 9).unwrap(), b"");
    assert_eq!(disk.objects(), 2);
}

#[test]
fn a_name_that_was_given_away_is_back_with_what_it_stood_for() {
    let mut disk = Disk::new();
    let old = disk.put("current", b"old");
    disk.tree.sync(old).unwrap();
    disk.tree.sync_directory(ROOT).unwrap();
    let replace = |disk: &mut Disk| {
        let new = disk.put("new", b"new");
        disk.tree.sync(new).unwrap();
        disk.tree.rename([(ROOT, "new".as_ref()), (ROOT, "current".as_ref())], true).unwrap();
    };
    replace(&mut disk);
    disk.tree.lose(None).unwrap();
    let current = disk.at("current");
    assert_eq!(disk.tree.read(current, 0, 9).unwrap(), b"old");
    replace(&mut disk);
    disk.tree.sync_directory(ROOT).unwrap();
    disk.tree.lose(None).unwrap();
    let current = disk.at("current");
    assert_eq!((disk.tree.read(current, 0, 9).unwrap(), disk.objects()), (b"new".to_vec(), 1));
}

#[test]
fn a_removal_that_was_not_synced_is_undone() {
    let mut disk = Disk::new();
    disk.put("file", b"");
    let directory = disk.tree.make(ROOT, "directory".as_ref(), true).unwrap().inode;
    disk.tree.make(directory, "within".as_ref(), false).unwrap();
    disk.tree.sync_all().unwrap();
    disk.tree.remove(ROOT, "file".as_ref(), false).unwrap();
    let full = disk.tree.remove(ROOT, "directory".as_ref(), true);
    assert_eq!(full.unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
    disk.tree.remove(directory, "within".as_ref(), false).unwrap();
    disk.tree.remove(ROOT, "directory".as_ref(), true).unwrap();
    assert!(disk.names().is_empty());
    disk.tree.lose(None).unwrap();
    assert_eq!(disk.names(), ["directory", "file"]);
    let directory = disk.at("directory");
    assert_eq!(disk.tree.names(directory).unwrap().len(), 1);
}

#[test]
fn an_open_file_that_was_removed_is_there_until_it_is_closed() {
    let mut disk = Disk::new();
    let file = disk.put("file", b"bytes");
    disk.tree.open(file).unwrap();
    disk.tree.remove(ROOT, "file".as_ref(), false).unwrap();
    assert_eq!(disk.tree.read(file, 0, 9).unwrap(), b"bytes");
    disk.tree.close(file).unwrap();
    assert_eq!(disk.objects(), 0);
    assert!(disk.tree.read(file, 0, 9).is_err());
}

#[test]
fn a_torn_directory_is_as_it_was_after_one_of_its_changes() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut disk = Disk::new();
        disk.put("a", b"");
        disk.tree.rename([(ROOT, "a".as_ref()), (ROOT, "b".as_ref())], true).unwrap();
        disk.put("c", b"");
        disk.tree.lose(Some(&mut StdRng::seed_from_u64(seed))).unwrap();
        seen.insert(disk.names().concat());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "a", "b", "bc"]);
}

#[test]
fn numbers_of_a_former_life_lead_nowhere() {
    let mut disk = Disk::new();
    let file = disk.put("file", b"bytes");
    disk.tree.sync_all().unwrap();
    disk.tree.lose(None).unwrap();
    assert!(disk.tree.write(file, 0, b"late", NOW).is_err());
    disk.tree.close(file).unwrap();
    let file = disk.at("file");
    assert_eq!(disk.tree.read(file, 0, 9).unwrap(), b"bytes");
}

#[test]
fn what_is_exported_is_all_there_is_and_a_wipe_leaves_nothing() {
    let mut disk = Disk::new();
    disk.put("file", b"bytes");
    let directory = disk.tree.make(ROOT, "directory".as_ref(), true).unwrap().inode;
    disk.tree.make(directory, "within".as_ref(), false).unwrap();
    let to = tempfile::tempdir().unwrap();
    disk.tree.export(to.path()).unwrap();
    disk.tree.wipe().unwrap();
    assert!(disk.names().is_empty());
    assert_eq!(disk.objects(), 0);
    assert_eq!(fs::read(to.path().join("file")).unwrap(), b"bytes");
    assert!(to.path().join("directory/within").is_file());
}
