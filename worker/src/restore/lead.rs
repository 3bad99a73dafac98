//! The main worker's part: its own shares, its mates' staging places, and what they staged.
//!
//! Invariants
//! 1. Nobody else gives a file of the cluster its name.
//! 2. A share is written here or adopted, once: these books decide, whatever a coordinator thinks.
//! 3. When this ends well, every file is in the ledger and no staging place is left.

use super::data::{self, Ground, Halt, Work};
use super::error::{Action, RestoreError};
use super::existing::Standing;
use super::ledger::Ledger;
use super::opening::Openings;
use super::owners::Owners;
use super::places::Places;
use super::source::Chosen;
use super::stock::{InHand, Part, Stock, share_of};
use super::sync::{Job, SyncQueue};
use super::{RestoreOrder, Surroundings, Team, files, staging};
use crate::desk::Desk;
use crate::random;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::{Identity, ShareId, WorkerName};
use pgconvoy_core::plan::restore::PlannedFile;
use pgconvoy_core::plan::shares::{Shares, digest};
use pgconvoy_core::wire::{Leading, ShareOrder, ShareReport, StagedShare};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What came of the data.
#[derive(Debug)]
pub(super) struct Written {
    /// Of each file of the plan, if they were wanted.
    pub(super) crcs: Vec<Option<u32>>,
    pub(super) team: Option<Team>,
}

/// All data, written and synced.
pub(super) fn write(
    chosen: &Chosen,
    places: &Places,
    owners: &Owners,
    order: &RestoreOrder,
    standing: Standing,
    around: &Surroundings,
) -> Result<Written, Failure> {
    let halt = Halt::new(around.stop.clone());
    let with_crcs = order.backup_manifest;
    let ledger = Ledger::new(&chosen.plan, places, &chosen.secret, with_crcs);
    let ground = Ground::Final { places, owners };
    let work = Work {
        chosen,
        ground,
        ledger: &ledger,
        halt: &halt,
        around,
        with_crcs,
        standing,
        openings: Openings::default(),
    };
    let shares = Shares::cut(&chosen.plan, order.share_size);
    let stock = Stock::new(&work, &shares);
    let slots = order.slots.max(1);
    let lead = Lead {
        work: &work,
        order,
        places,
        owners,
        shares: &shares,
        stock: &stock,
        desk: around.desk.as_deref(),
        run: Identity::from_random_bytes(random::bytes()?),
        roots: staging::roots(&chosen.plan, places),
        books: Mutex::new(Books::default()),
    };
    data::run(&work, &stock, slots, &|in_hand| lead.is_durable(in_hand), |queue| lead.serve(queue));
    halt.check()?;
    lead.roots.iter().try_for_each(|root| staging::remove_all(root))?;
    let team = lead.team();
    Ok(Written { crcs: ledger.close()?, team })
}

#[derive(Default)]
struct Books {
    own_is_done: bool,
    /// Durable; `None`: by this worker.
    done: BTreeMap<ShareId, Option<WorkerName>>,
    taken: BTreeSet<ShareId>,
    /// Renamed, not durable yet.
    adopting: BTreeSet<ShareId>,
    mates: BTreeMap<WorkerName, Identity>,
    left_out: Vec<(WorkerName, Failure)>,
}

struct Lead<'a> {
    work: &'a Work<'a>,
    order: &'a RestoreOrder,
    places: &'a Places,
    owners: &'a Owners,
    shares: &'a Shares,
    stock: &'a Stock<'a>,
    /// `None`: all shares are its own.
    desk: Option<&'a Desk>,
    run: Identity,
    roots: Vec<PathBuf>,
    books: Mutex<Books>,
}

impl Lead<'_> {
    fn serve(&self, queue: &SyncQueue) -> Result<(), Failure> {
        self.begin_own(queue)?;
        let Some(desk) = self.desk else {
            return (0..).map(ShareId).take(self.shares.shared.len()).try_for_each(|share| self.take(share));
        };
        self.say_how_far(desk);
        while !self.is_whole() {
            self.work.halt.check()?;
            if let Some(order) = desk.next() {
                self.obey(desk, order, queue)?;
            }
        }
        Ok(())
    }

    /// What is in no share, and the files without any part: empty ones, and holes in place of what is left out.
    fn begin_own(&self, queue: &SyncQueue) -> Result<(), Failure> {
        let own = self.shares.own.clone();
        let empty: Vec<&PlannedFile> =
            self.work.chosen.plan.files.iter().filter(|file| file.parts == 0).collect();
        let in_hand = InHand::new(Part::Own, own.files.len() + empty.len());
        self.stock.give(in_hand.clone(), own);
        for file in empty {
            self.work.halt.check()?;
            let path = self.places.of(&file.path);
            let handle = files::create(&path)?;
            handle.set_len(file.size).map_err(RestoreError::file(Action::Write, &path))?;
            self.owners.give(&handle, &path, file.ownership, Some(file.modified))?;
            queue.push(Job::Whole(handle, path, in_hand.clone()));
        }
        Ok(())
    }

    fn say_how_far(&self, desk: &Desk) {
        let (chosen, order) = (self.work.chosen, self.order);
        let books = self.lock();
        let mut done: BTreeMap<WorkerName, Vec<ShareId>> = BTreeMap::new();
        for (share, by) in &books.done {
            done.entry(by.as_ref().unwrap_or(desk.worker()).clone()).or_default().push(*share);
        }
        desk.say(ShareReport::Leading(Box::new(Leading {
            run: self.run,
            label: chosen.head.label,
            backup: chosen.head.backup,
            digest: digest(&chosen.plan, &order.target.directory, order.share_size, &chosen.secret),
            share_size: order.share_size,
            slots: u16::try_from(order.slots.max(1)).unwrap_or(u16::MAX),
            shares: self.shares.shared.iter().map(|share| share.bytes).collect(),
            done: done.into_iter().collect(),
            // What is being adopted nobody else may begin either.
            taken: books.taken.union(&books.adopting).copied().collect(),
            mates: books.mates.clone().into_iter().collect(),
        })));
    }

    fn obey(&self, desk: &Desk, order: ShareOrder, queue: &SyncQueue) -> Result<(), Failure> {
        match order {
            ShareOrder::Lead(_) => self.say_how_far(desk),
            ShareOrder::Take { within, shares } if within == self.run => {
                for share in shares {
                    if self.lock().done.contains_key(&share) {
                        desk.say(ShareReport::Written { run: self.run, share });
                    } else {
                        self.take(share)?;
                    }
                }
            }
            ShareOrder::Admit { mate } => {
                let staging = self.admit(&mate)?;
                desk.say(ShareReport::Admitted { mate, staging });
            }
            ShareOrder::Dismiss { mate, because } => self.dismiss(mate, because)?,
            ShareOrder::Adopt { mate, staging, staged } => {
                let share = staged.share;
                let result = match self.adopt(&mate, staging, staged, queue)? {
                    Ok(false) => return Ok(()),
                    Ok(true) => Ok(()),
                    Err(failure) => Err(failure),
                };
                desk.say(ShareReport::Adopted { mate, staging, share, result });
            }
            // Said to an earlier beginning of this worker.
            ShareOrder::Take { .. } | ShareOrder::Assist(_) | ShareOrder::Copy(_) => {}
        }
        Ok(())
    }

    fn take(&self, share: ShareId) -> Result<(), Failure> {
        let mut books = self.lock();
        if books.adopting.contains(&share) || !books.taken.insert(share) {
            return Ok(());
        }
        drop(books);
        self.stock.give_numbered(share)
    }

    fn admit(&self, mate: &WorkerName) -> Result<Identity, Failure> {
        if let Some(known) = self.lock().mates.get(mate) {
            return Ok(*known);
        }
        let staging = Identity::from_random_bytes(random::bytes()?);
        staging::make(&self.roots, staging)?;
        tracing::info!("worker {mate} helps with the restore");
        self.lock().mates.insert(mate.clone(), staging);
        Ok(staging)
    }

    fn dismiss(&self, mate: WorkerName, because: Option<Failure>) -> Result<(), Failure> {
        let staging = self.lock().mates.remove(&mate);
        if let Some(staging) = staging {
            staging::remove(&self.roots, staging)?;
        }
        if let Some(failure) = because {
            tracing::warn!("worker {mate} is left out of the restore: {failure}");
            self.lock().left_out.push((mate, failure));
        }
        Ok(())
    }

    /// `Ok(true)`: it was adopted before; `Ok(false)`: it will be said when it is durable. The outer error is the restore's, the
    /// inner one the mate's.
    fn adopt(
        &self,
        mate: &WorkerName,
        staging: Identity,
        staged: StagedShare,
        queue: &SyncQueue,
    ) -> Result<Result<bool, Failure>, Failure> {
        let number = staged.share;
        let share = share_of(self.shares, number)?;
        {
            let books = self.lock();
            if books.done.contains_key(&number) {
                return Ok(Ok(true));
            }
            if books.adopting.contains(&number) {
                return Ok(Ok(false));
            }
            if books.taken.contains(&number) || books.mates.get(mate) != Some(&staging) {
                let message = format!("share {number} of worker {mate} is not wanted any more");
                return Ok(Err(Failure::new(ErrorCode::Assert, message)));
            }
        }
        let plan = &self.work.chosen.plan;
        let files = share.files.iter().map(|number| (*number, &plan.files[*number as usize]));
        let from = |number: u32, file: &PlannedFile| staging::path(self.places, staging, number, file);
        let found = staging::check(files.clone().map(|(number, file)| (from(number, file), file)));
        if let Err(error) = found {
            return Ok(
                Err(Failure::from(error).context(format!("what worker {mate} staged cannot be used"))),
            );
        }
        if self.work.with_crcs && staged.crcs.len() != share.files.len() {
            let message = format!("worker {mate} staged a share without its checksums");
            return Ok(Err(Failure::new(ErrorCode::Protocol, message)));
        }
        self.lock().adopting.insert(number);
        self.work.ledger.adopt(&share.files, share.bytes, &staged.crcs);
        let in_hand =
            InHand::new(Part::Adopted { share: number, mate: mate.clone(), staging }, share.files.len());
        for (number, file) in files {
            let (old, new) = (from(number, file), self.places.of(&file.path));
            std::fs::rename(&old, &new).map_err(RestoreError::file(Action::Rename, &old))?;
            let handle = files::open(&new)?;
            self.owners.give(&handle, &new, file.ownership, Some(file.modified))?;
            queue.push(Job::Whole(handle, new, in_hand.clone()));
        }
        self.work.around.progress.add(share.bytes);
        Ok(Ok(false))
    }

    /// All files of a part are on disk.
    fn is_durable(&self, in_hand: &InHand) {
        let mut books = self.lock();
        let report = match &in_hand.part {
            Part::Own => {
                books.own_is_done = true;
                None
            }
            Part::Share(share) => {
                books.taken.remove(share);
                books.done.insert(*share, None);
                Some(ShareReport::Written { run: self.run, share: *share })
            }
            Part::Adopted { share, mate, staging } => {
                books.adopting.remove(share);
                books.done.insert(*share, Some(mate.clone()));
                let (mate, staging, share) = (mate.clone(), *staging, *share);
                Some(ShareReport::Adopted { mate, staging, share, result: Ok(()) })
            }
        };
        drop(books);
        if let (Some(desk), Some(report)) = (self.desk, report) {
            desk.say(report);
        }
    }

    fn is_whole(&self) -> bool {
        let books = self.lock();
        books.own_is_done && books.done.len() == self.shares.shared.len()
    }

    fn team(&self) -> Option<Team> {
        let (desk, books) = (self.desk?, self.lock());
        let mut bytes = BTreeMap::from([(desk.worker().clone(), self.shares.own.bytes)]);
        for (share, by) in &books.done {
            let share = &self.shares.shared[share.0 as usize];
            *bytes.entry(by.as_ref().unwrap_or(desk.worker()).clone()).or_default() += share.bytes;
        }
        Some(Team { workers: bytes.into_iter().collect(), left_out: books.left_out.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
