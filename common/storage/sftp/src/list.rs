//! Listing directories in the order of object stores.
//!
//! Directories are read ahead of the place where the walk is, several at once: what is one step here is a journey there.

use crate::failure::is_refused_with;
use crate::session::{Answer, Fault, Lane};
use crate::tree::Tree;
use crate::wire::{self, Attributes, Entry, Kind, code};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use pgconvoy_storage::listing::order;
use pgconvoy_storage::{IoAction, ListAfter, ListDepth, ListPage, ObjectKey, StorageError};
use std::ops::ControlFlow;

/// Directories that are read at once.
const DIRECTORIES_AHEAD: usize = 16;
/// Requests for names of one directory at once, to begin with: one with its names, and one with its end.
const REQUESTS_FIRST: usize = 2;
/// The same at the most; OpenSSH answers each with up to 100.
const REQUESTS_AHEAD_MAX: usize = 16;
/// The checker's own directory at the top of ext filesystems, for root's eyes only.
const LOST_AND_FOUND: &str = "lost+found";

/// A name in a directory that is text.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
}

/// `None`: what is no key and never will be.
fn named(directory: Option<&ObjectKey>, Entry { name, attributes }: Entry) -> Option<Named> {
    let name = String::from_utf8(name.into()).ok()?;
    let is_foreign = directory.is_none() && name == LOST_AND_FOUND;
    (!matches!(name.as_str(), "." | "..") && !is_foreign).then_some(Named { name, attributes })
}

/// A name that is a key.
struct Child {
    key: ObjectKey,
    attributes: Attributes,
}

impl Child {
    fn is_directory(&self) -> bool {
        self.attributes.kind() == Some(Kind::Directory)
    }
}

/// What a walk finds at one child, read ahead where it must be.
enum Ahead {
    Object(Child),
    Directory(Vec<Child>),
    /// A prefix, and whether anything is under it.
    Prefix(ObjectKey, bool),
}

impl Tree {
    /// All names in a directory; `None` if there is none.
    pub(crate) async fn names(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
    ) -> Result<Option<Vec<Named>>, StorageError> {
        self.names_of(lane, directory, self.ask_names(lane, directory)).await
    }

    /// The first step of reading a directory.
    fn ask_names(&self, lane: &Lane, directory: Option<&ObjectKey>) -> Answer {
        lane.send(wire::opendir(&self.path(directory)))
    }

    async fn names_of(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
        opening: Answer,
    ) -> Result<Option<Vec<Named>>, StorageError> {
        let error = |fault| self.error(directory, IoAction::List, fault);
        let opened = match lane.opened(opening).await {
            Ok(opened) => opened,
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => return Ok(None),
            Err(fault) => return self.judge_unopened(lane, directory, fault).await,
        };
        let mut found = Vec::new();
        let mut requests = REQUESTS_FIRST;
        let mut has_ended = false;
        // In rounds: most directories end with the first one, and so does the time they take.
        while !has_ended {
            let asked: Vec<Answer> =
                (0..requests).map(|_| lane.send(wire::readdir(&opened.handle))).collect();
            for answer in asked {
                let Some(names) = answer.names().await.map_err(error)? else {
                    has_ended = true;
                    continue;
                };
                // Where servers work in parallel, names may come after the first end.
                if has_ended && !names.is_empty() {
                    let reason = "the server tells the end of a directory before its last names".to_owned();
                    return Err(StorageError::NotSupported { at: self.place(directory), reason });
                }
                found.extend(names.into_iter().filter_map(|entry| named(directory, entry)));
            }
            requests = (requests * 2).min(REQUESTS_AHEAD_MAX);
        }
        self.complete(lane, directory, &mut found).await?;
        Ok(Some(found))
    }

    /// A file is the prefix of nothing.
    async fn judge_unopened(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
        fault: Fault,
    ) -> Result<Option<Vec<Named>>, StorageError> {
        if let (Fault::Refused(_), Some(key)) = (&fault, directory) {
            match lane.send(wire::lstat(&self.path(directory))).attributes().await.map(Attributes::kind) {
                Ok(Some(Kind::File)) => return Ok(None),
                Ok(Some(kind @ (Kind::Link | Kind::Other))) => return Err(self.not_an_object(key, kind)),
                _ => {}
            }
        }
        Err(self.error(directory, IoAction::List, fault))
    }

    /// Asks for what a server leaves out of its listings.
    async fn complete(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
        found: &mut Vec<Named>,
    ) -> Result<(), StorageError> {
        let lacks = |named: &Named| named.attributes.kind().is_none() || named.attributes.size.is_none();
        let mut asked = Vec::new();
        for (at, named) in found.iter().enumerate().filter(|(_, named)| lacks(named)) {
            asked.push((at, lane.send(wire::lstat(&self.path_in(directory, &named.name)))));
        }
        let mut gone = Vec::new();
        for (at, answer) in asked {
            match answer.attributes().await {
                Ok(attributes) => found[at].attributes = attributes,
                Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => gone.push(at),
                Err(fault) => return Err(self.error(directory, IoAction::List, fault)),
            }
        }
        for at in gone.into_iter().rev() {
            found.remove(at);
        }
        Ok(())
    }

    async fn children(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
    ) -> Result<Option<Vec<Child>>, StorageError> {
        self.children_of(lane, directory, self.ask_names(lane, directory)).await
    }

    /// The entries of a directory that are keys, in order.
    async fn children_of(
        &self,
        lane: &Lane,
        directory: Option<&ObjectKey>,
        opening: Answer,
    ) -> Result<Option<Vec<Child>>, StorageError> {
        let Some(names) = self.names_of(lane, directory, opening).await? else { return Ok(None) };
        let child = |Named { name, attributes }| {
            let key = match directory {
                Some(directory) => directory.join(&name),
                None => name.parse(),
            };
            key.ok().map(|key| Child { key, attributes })
        };
        let mut children: Vec<Child> = names.into_iter().filter_map(child).collect();
        children.sort_unstable_by(|a, b| order((&a.key, a.is_directory()), (&b.key, b.is_directory())));
        Ok(Some(children))
    }

    /// Whether anything below this directory would be listed, or be an error that a listing below it must show.
    fn holds_object<'a>(
        &'a self,
        lane: &'a Lane,
        directory: ObjectKey,
    ) -> BoxFuture<'a, Result<bool, StorageError>> {
        async move {
            let Some(children) = self.children(lane, Some(&directory)).await? else { return Ok(false) };
            if children.iter().any(|child| !child.is_directory()) {
                return Ok(true);
            }
            for child in children {
                if self.holds_object(lane, child.key).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        .boxed()
    }

    pub(crate) async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let lane = self.lane().await?;
        // The prefix itself is a part of the way, too.
        let way = prefix.map(|prefix| {
            let below = prefix.join("x").unwrap_or_else(|_| prefix.clone());
            self.ask_parents(&lane, &below)
        });
        // Opening a directory changes nothing, also where a link led to it: nothing of it is read before that is known.
        let opening = self.ask_names(&lane, prefix);
        if let Some(way) = way {
            self.judge_parents(way).await?;
        }
        let Some(children) = self.children_of(&lane, prefix, opening).await? else {
            self.check_still_there(self.ask_root(&lane)).await?;
            return Ok(ListPage::default());
        };
        let mut walk =
            Walk { tree: self, lane: &lane, depth, after, limit, page: ListPage::default(), last: None };
        let _ = walk.visit(children).await?;
        if walk.last.is_none() {
            self.check_still_there(self.ask_root(&lane)).await?;
        }
        Ok(walk.page)
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    lane: &'a Lane,
    depth: ListDepth,
    after: Option<&'a ListAfter>,
    limit: usize,
    page: ListPage,
    last: Option<ListAfter>,
}

impl<'a> Walk<'a> {
    /// Whether anything of a child can be on the page.
    fn is_wanted(&self, child: &Child) -> bool {
        let Some(after) = self.after else { return true };
        match (child.is_directory(), self.depth) {
            (false, _) => after.precedes_object(&child.key),
            (true, ListDepth::Recursive) => after.precedes_some_under(&child.key),
            (true, ListDepth::Children) => after.precedes_prefix(&child.key),
        }
    }

    /// Breaks when the page is full and something is left.
    fn visit(&mut self, children: Vec<Child>) -> BoxFuture<'_, Result<ControlFlow<()>, StorageError>> {
        let (tree, lane, depth) = (self.tree, self.lane, self.depth);
        let mut children = children;
        children.retain(|child| self.is_wanted(child));
        async move {
            let ahead = stream::iter(children).map(|child| look_ahead(tree, lane, depth, child));
            let mut ahead = std::pin::pin!(ahead.buffered(DIRECTORIES_AHEAD));
            while let Some(next) = ahead.next().await {
                let flow = match next? {
                    Ahead::Object(child) => match tree.info(&child.key, child.attributes)? {
                        Some(info) => {
                            tree.met().add_file(&child.key);
                            self.add(ListAfter::Object(child.key), |page| page.objects.push(info))
                        }
                        None => ControlFlow::Continue(()),
                    },
                    Ahead::Directory(children) => self.visit(children).await?,
                    Ahead::Prefix(key, true) => {
                        self.add(ListAfter::Prefix(key.clone()), |page| page.prefixes.push(key))
                    }
                    Ahead::Prefix(_, false) => ControlFlow::Continue(()),
                };
                if flow.is_break() {
                    return Ok(flow);
                }
            }
            Ok(ControlFlow::Continue(()))
        }
        .boxed()
    }

    fn add(&mut self, entry: ListAfter, push: impl FnOnce(&mut ListPage)) -> ControlFlow<()> {
        if self.page.objects.len() + self.page.prefixes.len() == self.limit {
            self.page.more = self.last.take();
            return ControlFlow::Break(());
        }
        push(&mut self.page);
        self.last = Some(entry);
        ControlFlow::Continue(())
    }
}

async fn look_ahead(tree: &Tree, lane: &Lane, depth: ListDepth, child: Child) -> Result<Ahead, StorageError> {
    if !child.is_directory() {
        return Ok(Ahead::Object(child));
    }
    match depth {
        ListDepth::Recursive => {
            let below = tree.children(lane, Some(&child.key)).await?;
            Ok(Ahead::Directory(below.unwrap_or_default()))
        }
        ListDepth::Children => {
            let holds = tree.holds_object(lane, child.key.clone()).await?;
            Ok(Ahead::Prefix(child.key, holds))
        }
    }
}
