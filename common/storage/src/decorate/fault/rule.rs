//! Which calls are struck, and with what.

use crate::{IoAction, ObjectKey, Place, Shortage, StorageError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A call that a rule can strike.
///
/// The key of `List` and `Sweep` is their prefix; without one only [`KeyPattern::Any`] matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Any,
    Put,
    Begin,
    Write,
    Finish,
    Abort,
    Get,
    GetRange,
    Stat,
    List,
    Delete,
    Sweep,
    Copy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPattern {
    Any,
    Exactly(ObjectKey),
    Under(ObjectKey),
    Contains(String),
}

impl KeyPattern {
    fn matches(&self, key: Option<&ObjectKey>) -> bool {
        match self {
            KeyPattern::Any => true,
            KeyPattern::Exactly(wanted) => key == Some(wanted),
            KeyPattern::Under(prefix) => key.is_some_and(|key| key.under(prefix).is_some()),
            KeyPattern::Contains(text) => key.is_some_and(|key| key.as_str().contains(text)),
        }
    }
}

/// Which error a call ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    AlreadyExists,
    Access,
    Kept,
    ReadOnly,
    Full,
    Unavailable,
    Timeout,
    NotSupported,
    Io,
}

impl Kind {
    pub(super) fn error(self, at: Place, action: IoAction) -> StorageError {
        let reason = "injected fault".to_owned();
        match self {
            Kind::NotFound => StorageError::NotFound { at },
            Kind::AlreadyExists => StorageError::AlreadyExists { at },
            Kind::Access => StorageError::Access { at, action, reason },
            Kind::Kept => StorageError::Kept { at, reason },
            Kind::ReadOnly => StorageError::ReadOnly { at, action },
            Kind::Full => StorageError::Full { at, action, shortage: Shortage::Space },
            Kind::Unavailable => StorageError::Unavailable { at, reason },
            Kind::Timeout => StorageError::Timeout { at, reason },
            Kind::NotSupported => StorageError::NotSupported { at, reason },
            Kind::Io => StorageError::Io { at, action, reason },
        }
    }
}

/// What a rule does to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done, the error is reported.
    Fail(Kind),
    /// It is done, and the error is reported.
    LoseAnswer(Kind),
    /// It is done after a wait.
    Delay(Duration),
    /// Nothing is done, and no answer ever comes.
    Stall,
    /// A read gives so many bytes and no more.
    TruncateRead(usize),
    /// A read gives this bit, counted from the start of what is read, turned over.
    FlipBit(usize),
    /// A put that must create overwrites: a store that breaks its promise.
    IgnoreCreateOnly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub operation: Operation,
    pub keys: KeyPattern,
    pub effect: Effect,
    pub skip: u64,
    pub strikes_max: u64,
}

impl Rule {
    /// Strikes every such call.
    pub fn always(operation: Operation, effect: Effect) -> Self {
        Rule { operation, keys: KeyPattern::Any, effect, skip: 0, strikes_max: u64::MAX }
    }

    /// Strikes the first such call.
    pub fn once(operation: Operation, effect: Effect) -> Self {
        Self::always(operation, effect).times(1)
    }

    #[must_use]
    pub fn on(mut self, keys: KeyPattern) -> Self {
        self.keys = keys;
        self
    }

    /// Lets so many matching calls pass first.
    #[must_use]
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    #[must_use]
    pub fn times(mut self, strikes: u64) -> Self {
        self.strikes_max = strikes;
        self
    }
}

/// Names a rule for as long as the store lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(usize);

#[derive(Debug)]
struct Armed {
    rule: Rule,
    matched: u64,
    strikes: u64,
    is_removed: bool,
}

/// The handle that a test keeps; clones share the rules.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    rules: Arc<Mutex<Vec<Armed>>>,
}

impl Faults {
    /// A panic elsewhere cannot leave a rule half changed.
    fn lock(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.lock();
        rules.push(Armed { rule, matched: 0, strikes: 0, is_removed: false });
        RuleId(rules.len() - 1)
    }

    pub fn remove(&self, id: RuleId) {
        if let Some(armed) = self.lock().get_mut(id.0) {
            armed.is_removed = true;
        }
    }

    /// Makes the store sound again. Calls that stall go on stalling.
    pub fn clear(&self) {
        self.lock().iter_mut().for_each(|armed| armed.is_removed = true);
    }

    /// How often a rule has struck.
    pub fn strikes(&self, id: RuleId) -> u64 {
        self.lock().get(id.0).map_or(0, |armed| armed.strikes)
    }

    /// What the first rule that applies does to this call.
    pub(super) fn strike(&self, operation: Operation, key: Option<&ObjectKey>) -> Option<Effect> {
        for armed in self.lock().iter_mut() {
            let rule = &armed.rule;
            let is_its_call = matches!(rule.operation, Operation::Any) || rule.operation == operation;
            if armed.is_removed || !is_its_call || !rule.keys.matches(key) {
                continue;
            }
            armed.matched += 1;
            if armed.matched > rule.skip && armed.strikes < rule.strikes_max {
                armed.strikes += 1;
                return Some(rule.effect);
            }
        }
        None
    }
}
