//! A mate's part: stages the shares that it is given, for the main worker to adopt.
//!
//! Invariants
//! 1. Nothing is written outside its staging place, which the main worker made: a mate makes no directory and renames nothing.
//! 2. It does only what the main worker's plan says: backup and digest are compared before anything is written.

use super::data::{self, Ground, Halt, Work};
use super::existing::Standing;
use super::ledger::Ledger;
use super::opening::Openings;
use super::places::Places;
use super::source::{self, Chosen};
use super::stock::{InHand, Part, Stock, share_of};
use super::{RestoreOrder, Surroundings, staging};
use crate::desk::Desk;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::ShareId;
use pgconvoy_core::plan::shares::{Shares, digest};
use pgconvoy_core::wire::{AssistOrder, ShareOrder, ShareReport, StagedShare};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks until it is told to stop, or cannot go on. Not to be called on a thread of the runtime. The order says where this
/// worker's configuration and maps lead; backup and size of shares are the main worker's.
pub fn assist(order: RestoreOrder, assist: &AssistOrder, around: &Surroundings) -> Result<(), Failure> {
    let no_desk = || Failure::new(ErrorCode::Assert, "there is nobody to help");
    let desk = around.desk.as_deref().ok_or_else(no_desk)?;
    let order = RestoreOrder { set: Some(assist.label), share_size: assist.share_size, ..order };
    let chosen = source::choose(&order, around)?;
    must_be_the_same(&chosen, &order, assist)?;
    let places = Places::new(Path::new(&order.target.directory), &chosen.plan);
    staging::find(&staging::roots(&chosen.plan, &places), assist.staging)?;
    tracing::info!("help to restore backup {} into {}", assist.label, order.target.directory);

    let halt = Halt::new(around.stop.clone());
    let with_crcs = order.backup_manifest;
    let ledger = Ledger::new(&chosen.plan, &places, &chosen.secret, with_crcs);
    let ground = Ground::Staged { places: &places, staging: assist.staging };
    // What it makes is new, whatever the target holds.
    let standing = Standing::default();
    let work = Work {
        chosen: &chosen,
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
    let mate =
        Mate { work: &work, assist, shares: &shares, stock: &stock, desk, slots, books: Mutex::default() };
    data::run(&work, &stock, slots, &|in_hand| mate.is_durable(in_hand), |_| mate.serve());
    halt.check()
}

fn must_be_the_same(chosen: &Chosen, order: &RestoreOrder, assist: &AssistOrder) -> Result<(), Failure> {
    if chosen.head.backup != assist.backup {
        let message = format!(
            "repo {} has another backup under the label {} than the main worker restores",
            chosen.origin.key(),
            assist.label
        );
        return Err(Failure::new(ErrorCode::BackupMismatch, message)
            .hint("give all workers of the restore the same repositories"));
    }
    let mine = digest(&chosen.plan, &order.target.directory, order.share_size, &chosen.secret);
    if mine != assist.digest {
        let message = "data directory, maps or program differ from the main worker's".to_owned();
        return Err(Failure::new(ErrorCode::BackupMismatch, message)
            .hint("name the directory with --pg-path, or alike in the configuration of all workers")
            .hint("pgconvoy version must be the same on all of them"));
    }
    Ok(())
}

#[derive(Default)]
struct Books {
    taken: BTreeSet<ShareId>,
    staged: BTreeMap<ShareId, StagedShare>,
}

struct Mate<'a> {
    work: &'a Work<'a>,
    assist: &'a AssistOrder,
    shares: &'a Shares,
    stock: &'a Stock<'a>,
    desk: &'a Desk,
    slots: usize,
    books: Mutex<Books>,
}

impl Mate<'_> {
    fn serve(&self) -> Result<(), Failure> {
        self.say_how_far();
        loop {
            self.work.halt.check()?;
            match self.desk.next() {
                Some(ShareOrder::Assist(_)) => self.say_how_far(),
                Some(ShareOrder::Take { within, shares }) if within == self.assist.staging => {
                    shares.into_iter().try_for_each(|share| self.take(share))?;
                }
                // Said to an earlier beginning of this worker.
                Some(_) | None => {}
            }
        }
    }

    fn say_how_far(&self) {
        self.desk.say(ShareReport::Assisting {
            staging: self.assist.staging,
            slots: u16::try_from(self.slots).unwrap_or(u16::MAX),
            taken: self.lock().taken.iter().copied().collect(),
        });
    }

    fn take(&self, share: ShareId) -> Result<(), Failure> {
        let mut books = self.lock();
        if let Some(staged) = books.staged.get(&share) {
            self.say(staged.clone());
            return Ok(());
        }
        if !books.taken.insert(share) {
            return Ok(());
        }
        drop(books);
        self.stock.give_numbered(share)
    }

    /// Nothing of a share is open any more when this is said of it.
    fn is_durable(&self, in_hand: &InHand) {
        let Part::Share(number) = in_hand.part else { return };
        let Ok(share) = share_of(self.shares, number) else { return };
        let staged = StagedShare::new(number, self.work.ledger.crcs_of(&share.files));
        let mut books = self.lock();
        books.taken.remove(&number);
        books.staged.insert(number, staged.clone());
        drop(books);
        self.say(staged);
    }

    fn say(&self, staged: StagedShare) {
        self.desk.say(ShareReport::Staged { staging: self.assist.staging, staged });
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
