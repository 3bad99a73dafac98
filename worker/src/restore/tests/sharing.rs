//! A main worker and a mate, with the test in the coordinator's place.

use super::fixture::content;
use super::*;
use crate::restore::staging::STAGING;
use pgconvoy_core::ids::{Identity, ShareId};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::wire::{AssistOrder, ErrandOrder, Leading, ShareOrder, ShareReport, StagedShare};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tokio::sync::mpsc::UnboundedReceiver;

/// An answer that takes longer is none.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const IN_TABLESPACE: &str = "pg_tblspc/16384/PG_15_202209061/7";

/// One worker in a thread of its own.
struct Side<T> {
    desk: Arc<Desk>,
    said: UnboundedReceiver<ShareReport>,
    around: Surroundings,
    thread: JoinHandle<Result<T, Failure>>,
}

impl<T: Send + 'static> Side<T> {
    fn begin(
        fixture: &Fixture,
        name: &str,
        work: impl FnOnce(&Surroundings) -> Result<T, Failure> + Send + 'static,
    ) -> Side<T> {
        let (desk, said) = Desk::new(worker(name));
        let desk = Arc::new(desk);
        let around = Surroundings { desk: Some(desk.clone()), ..fixture.around() };
        let inside = around.clone();
        Side { desk, said, around, thread: std::thread::spawn(move || work(&inside)) }
    }

    fn says(&mut self) -> ShareReport {
        let runtime = self.around.runtime.clone();
        let said = runtime.block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, self.said.recv()).await });
        said.expect("it says nothing").expect("it has ended")
    }

    fn ends(self) -> Result<T, Failure> {
        self.thread.join().unwrap()
    }
}

fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn mate() -> WorkerName {
    worker("mate")
}

/// Every file is a share: `base/1`, `base/2`, the configuration, and the tablespace's file.
struct Site {
    shape: Shape,
    fixture: Fixture,
    scratch: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let scratch = tempfile::tempdir().unwrap();
        let mut shape = Shape::sample();
        shape.tablespace = Some(scratch.path().join("east"));
        shape.units.insert(4, vec![(IN_TABLESPACE, 0, content(700, 9))]);
        let fixture = Fixture::new(&shape);
        Site { shape, fixture, scratch }
    }

    fn tablespace(&self) -> PathBuf {
        self.scratch.path().join("east")
    }

    fn order(&self) -> RestoreOrder {
        RestoreOrder { share_size: 1, ..self.fixture.order() }
    }

    fn main(&self, order: RestoreOrder) -> (Side<RestoreReport>, Leading) {
        let mut main = Side::begin(&self.fixture, "main", move |around| restore(&order, around));
        match main.says() {
            ShareReport::Leading(leading) => (main, *leading),
            other => panic!("{other:?}"),
        }
    }

    fn mate(&self, order: RestoreOrder, assist: AssistOrder) -> Side<()> {
        Side::begin(&self.fixture, "mate", move |around| super::assist(order, &assist, around))
    }

    fn assert_whole(&self) {
        assert_whole(&self.fixture, &self.shape);
        assert_eq!(self.fixture.read(IN_TABLESPACE), self.shape.file(IN_TABLESPACE));
        for root in [self.fixture.target(), self.tablespace()] {
            assert!(!exists(&root.join(STAGING)), "a staging place is left in {}", root.display());
        }
    }
}

fn admitted(main: &mut Side<RestoreReport>) -> Identity {
    main.desk.order(ShareOrder::Admit { mate: mate() });
    match main.says() {
        ShareReport::Admitted { staging, .. } => staging,
        other => panic!("{other:?}"),
    }
}

fn assist_order(leading: &Leading, staging: Identity) -> AssistOrder {
    let (stanza, options) = ("main".parse().unwrap(), JobOptions::default());
    AssistOrder {
        errand: ErrandOrder { kind: JobKind::Restore, stanza, options },
        label: leading.label,
        backup: leading.backup,
        digest: leading.digest,
        share_size: leading.share_size,
        staging,
    }
}

fn all(leading: &Leading) -> Vec<ShareId> {
    (0..).map(ShareId).take(leading.shares.len()).collect()
}

/// The mate stages these shares, one by one.
fn stage(mate: &mut Side<()>, staging: Identity, shares: Vec<ShareId>) -> Vec<StagedShare> {
    assert!(matches!(mate.says(), ShareReport::Assisting { .. }));
    let count = shares.len();
    mate.desk.order(ShareOrder::Take { within: staging, shares });
    let staged = (0..count).map(|_| match mate.says() {
        ShareReport::Staged { staged, .. } => staged,
        other => panic!("{other:?}"),
    });
    staged.collect()
}

fn adopt(main: &mut Side<RestoreReport>, staging: Identity, staged: &StagedShare) -> Result<(), Failure> {
    main.desk.order(ShareOrder::Adopt { mate: mate(), staging, staged: staged.clone() });
    match main.says() {
        ShareReport::Adopted { share, result, .. } if share == staged.share => result,
        other => panic!("{other:?}"),
    }
}

fn take(main: &Side<RestoreReport>, leading: &Leading, shares: Vec<ShareId>) {
    main.desk.order(ShareOrder::Take { within: leading.run, shares });
}

#[test]
fn what_a_mate_stages_gets_its_names_from_the_main_worker() {
    let site = Site::new();
    let (mut main, leading) = site.main(site.order());
    assert_eq!(leading.shares, [1500, 700, 300, 17]);
    let staging = admitted(&mut main);
    let mut mate = site.mate(site.order(), assist_order(&leading, staging));
    let staged = stage(&mut mate, staging, vec![ShareId(0), ShareId(1)]);
    assert!(!exists(&site.fixture.target().join("base/1")), "a mate gave a file its name");
    for staged in &staged {
        adopt(&mut main, staging, staged).unwrap();
    }
    take(&main, &leading, vec![ShareId(2), ShareId(3)]);
    let report = main.ends().unwrap();
    site.assert_whole();
    assert_eq!(report.team.unwrap().workers, [(worker("main"), 8192 + 317), (worker("mate"), 2200)]);
    for path in ["base/1", IN_TABLESPACE] {
        let metadata = site.fixture.target().join(path).metadata().unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o600, MODIFIED), "{path}");
    }
    mate.around.stop.cancel();
    assert_eq!(mate.ends().unwrap_err().code, ErrorCode::Term);
}

#[test]
fn a_mate_that_was_dismissed_can_write_to_nothing_that_has_a_name() {
    let site = Site::new();
    let (mut main, leading) = site.main(site.order());
    let staging = admitted(&mut main);
    let mut mate = site.mate(site.order(), assist_order(&leading, staging));
    assert!(matches!(mate.says(), ShareReport::Assisting { .. }));
    let place = site.fixture.target().join(STAGING).join(staging.to_string());
    let mut open = std::fs::File::create(place.join("0")).unwrap();
    main.desk.order(ShareOrder::Dismiss { mate: super::sharing::mate(), because: Some(terminated()) });
    take(&main, &leading, all(&leading));
    let report = main.ends().unwrap();
    let before = site.fixture.read("base/1");
    open.write_all(b"late").unwrap();
    mate.desk.order(ShareOrder::Take { within: staging, shares: all(&leading) });
    let failure = mate.ends().unwrap_err();
    assert_eq!(failure.code, ErrorCode::FileOpen, "{failure}");
    site.assert_whole();
    assert_eq!(site.fixture.read("base/1"), before);
    assert_eq!(report.team.unwrap().left_out, [(super::sharing::mate(), terminated())]);
}

#[test]
fn what_the_main_worker_does_not_find_whole_is_refused_and_done_by_itself() {
    let site = Site::new();
    let (mut main, leading) = site.main(site.order());
    let staging = admitted(&mut main);
    let missing = StagedShare::new(ShareId(0), Vec::new());
    let failure = adopt(&mut main, staging, &missing).unwrap_err();
    assert!(failure.message.contains("worker mate"), "{failure}");
    let place = site.tablespace().join(STAGING).join(staging.to_string());
    let number = site_file_number(&site, IN_TABLESPACE);
    std::fs::write(place.join(number), "short").unwrap();
    let short = StagedShare::new(ShareId(1), Vec::new());
    assert_eq!(adopt(&mut main, staging, &short).unwrap_err().code, ErrorCode::FileInvalid);
    take(&main, &leading, all(&leading));
    main.ends().unwrap();
    site.assert_whole();
}

/// The place of a file in the plan, where files are sorted by path.
fn site_file_number(site: &Site, path: &str) -> String {
    let mut paths: Vec<&str> = site.shape.units.values().flatten().map(|(path, _, _)| *path).collect();
    paths.push("base/3");
    paths.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    paths.dedup();
    paths.iter().position(|one| *one == path).unwrap().to_string()
}

#[test]
fn orders_that_come_twice_are_answered_and_do_nothing_twice() {
    let site = Site::new();
    let (mut main, leading) = site.main(site.order());
    let staging = admitted(&mut main);
    assert_eq!(admitted(&mut main), staging);
    let mut mate = site.mate(site.order(), assist_order(&leading, staging));
    let staged = stage(&mut mate, staging, vec![ShareId(0)]).remove(0);
    mate.desk.order(ShareOrder::Take { within: staging, shares: vec![ShareId(0)] });
    assert!(matches!(mate.says(), ShareReport::Staged { staged: again, .. } if again == staged));
    adopt(&mut main, staging, &staged).unwrap();
    adopt(&mut main, staging, &staged).unwrap();
    main.desk.order(ShareOrder::Lead(Box::new(assist_order(&leading, staging).errand)));
    let ShareReport::Leading(again) = main.says() else { panic!("it does not say how far it is") };
    assert_eq!((again.run, again.done), (leading.run, vec![(super::sharing::mate(), vec![ShareId(0)])]));
    take(&main, &leading, all(&leading));
    take(&main, &leading, all(&leading));
    let report = main.ends().unwrap();
    assert_eq!(report.team.unwrap().workers.iter().map(|(_, bytes)| bytes).sum::<u64>(), report.bytes);
    site.assert_whole();
    mate.around.stop.cancel();
    mate.ends().unwrap_err();
}

#[test]
fn staging_places_that_a_dead_restore_left_are_gone_before_the_next_begins() {
    let site = Site::new();
    let (mut main, _) = site.main(site.order());
    let staging = admitted(&mut main);
    let places = [site.fixture.target(), site.tablespace()].map(|root| root.join(STAGING));
    for place in &places {
        std::fs::write(place.join(staging.to_string()).join("5"), "half").unwrap();
    }
    main.around.stop.cancel();
    main.ends().unwrap_err();
    assert!(places.iter().all(|place| exists(place)));
    assert_unfinished(&site.fixture);
    site.fixture.restore().unwrap();
    site.assert_whole();
}

/// Begins to help with something else than the main worker does.
fn refused(site: &Site, change: impl FnOnce(&mut RestoreOrder, &mut AssistOrder)) -> Failure {
    let (mut main, leading) = site.main(site.order());
    let staging = admitted(&mut main);
    let (mut order, mut assist) = (site.order(), assist_order(&leading, staging));
    change(&mut order, &mut assist);
    let failure = site.mate(order, assist).ends().unwrap_err();
    take(&main, &leading, all(&leading));
    main.ends().unwrap();
    site.assert_whole();
    assert!(!failure.hints.is_empty(), "{failure}");
    failure
}

#[test]
fn a_mate_whose_maps_lead_elsewhere_is_refused() {
    let site = Site::new();
    let elsewhere = site.scratch.path().join("west").to_str().unwrap().to_owned();
    let failure = refused(&site, |order, _| order.target.tablespace_map_all = Some(elsewhere.clone()));
    assert_eq!(failure.code, ErrorCode::BackupMismatch, "{failure}");
    assert!(!exists(Path::new(&elsewhere)));
}

#[test]
fn a_mate_that_knows_another_backup_by_the_label_is_refused() {
    let site = Site::new();
    let failure = refused(&site, |_, assist| assist.backup = Identity::from_random_bytes([99; 16]));
    assert_eq!(failure.code, ErrorCode::BackupMismatch, "{failure}");
}

#[test]
fn a_mate_that_does_not_see_the_main_workers_target_is_refused() {
    let site = Site::new();
    let failure = refused(&site, |_, assist| assist.staging = Identity::from_random_bytes([99; 16]));
    assert!(failure.message.contains("not seen from here"), "{failure}");
}

#[test]
fn the_backup_manifest_is_the_same_whoever_restored() {
    let with_manifest = |site: &Site| RestoreOrder { backup_manifest: true, ..site.order() };
    let site = Site::new();
    let (mut main, leading) = site.main(with_manifest(&site));
    let staging = admitted(&mut main);
    let mut mate = site.mate(with_manifest(&site), assist_order(&leading, staging));
    for staged in stage(&mut mate, staging, all(&leading)) {
        adopt(&mut main, staging, &staged).unwrap();
    }
    main.ends().unwrap();
    mate.around.stop.cancel();
    mate.ends().unwrap_err();
    let manifest: serde_json::Value = serde_json::from_slice(&site.fixture.read("backup_manifest")).unwrap();
    for file in manifest["Files"].as_array().unwrap() {
        let bytes = site.fixture.read(file["Path"].as_str().unwrap());
        let crc: String =
            crc32c::crc32c(&bytes).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(file["Checksum"].as_str(), Some(crc.as_str()), "{file}");
    }
}
