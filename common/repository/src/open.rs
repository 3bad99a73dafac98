//! Finds out what a place is: a repository or not, encrypted or not, and whether our key opens it.
//!
//! Cipher and key come from the configuration, never from the place alone: a reader that is told of a key refuses a
//! repository that claims to need none.

use crate::create_only::prove_guarding;
use crate::error::RepositoryError;
use crate::keys::{Fingerprint, KeySlot, KeySource, RepositoryKey, SlotName, SlotSecret, load_secret};
use crate::object::object_key;
use crate::plain::PlainFiles;
use pgconvoy_core::config::Layout;
use pgconvoy_core::format::cluster::RepositoryBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::{Cipher, Kind};
use pgconvoy_core::ids::{Identity, KeyGeneration, RepoKey};
use pgconvoy_core::units::Timestamp;
use pgconvoy_storage::{Storage, list_children};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The slot that creating a repository makes.
pub const FIRST_SLOT: &str = "default";
const FIRST_GENERATION: KeyGeneration = KeyGeneration(1);

/// What the configuration says about a repository, apart from where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    pub number: RepoKey,
    /// `None`: cipher none.
    pub secret: Option<KeySource>,
    pub layout: Layout,
}

impl RepositorySettings {
    fn cipher(&self) -> Cipher {
        if self.secret.is_some() { Cipher::Aes256Gcm } else { Cipher::None }
    }
}

/// An open repository: identified, its keys at hand.
#[derive(Debug)]
pub struct Repository {
    number: RepoKey,
    storage: Arc<dyn Storage>,
    identity: Identity,
    keys: BTreeMap<KeyGeneration, RepositoryKey>,
    /// Where it keeps files as such; `None`: nowhere, packs hold everything.
    plain: Option<PlainFiles>,
}

impl Repository {
    pub async fn open(
        storage: Arc<dyn Storage>,
        settings: &RepositorySettings,
    ) -> Result<Repository, RepositoryError> {
        let place = storage.describe();
        let mut repository = Repository {
            number: settings.number,
            storage,
            identity: Identity::default(),
            keys: BTreeMap::new(),
            plain: None,
        };
        let body: RepositoryBody = repository
            .get_object(Kind::Repository, layout::REPOSITORY)
            .await?
            .ok_or_else(|| RepositoryError::NotARepository { place: place.clone() })?;
        match (body.cipher, settings.cipher()) {
            (Cipher::Aes256Gcm, Cipher::None) => return Err(RepositoryError::NoKey { place }),
            (Cipher::None, Cipher::Aes256Gcm) => return Err(RepositoryError::NotEncrypted { place }),
            _ => {}
        }
        if body.layout != settings.layout {
            return Err(RepositoryError::OtherLayout { place, found: body.layout, wanted: settings.layout });
        }
        repository.plain = plain_files(repository.storage.as_ref(), settings)?;
        repository.identity = body.identity;
        if let Some(source) = &settings.secret {
            let secret = load(source).await?;
            repository.unlock(&secret).await?;
        }
        Ok(repository)
    }

    /// Opens it, or makes a new one in a place that has none. The second value tells whether it is new.
    pub async fn open_or_create(
        storage: Arc<dyn Storage>,
        settings: &RepositorySettings,
        now: Timestamp,
    ) -> Result<(Repository, bool), RepositoryError> {
        let key = object_key(layout::REPOSITORY);
        if storage.stat(&key).await?.is_some() {
            return Ok((Self::open(storage, settings).await?, false));
        }
        Self::create(storage, settings, now).await.map(|repository| (repository, true))
    }

    /// Key slots come before the identity, whose existence is the repository: one that dies in between is no repository
    /// yet, and the next attempt makes a key of its own under the new identity. Two that create at once could leave the
    /// identity of one beside the slot of the other: nothing is written before it was opened as everybody will open it.
    async fn create(
        storage: Arc<dyn Storage>,
        settings: &RepositorySettings,
        now: Timestamp,
    ) -> Result<Repository, RepositoryError> {
        let plain = plain_files(storage.as_ref(), settings)?;
        let identity = Identity::from_random_bytes(random_bytes()?);
        let scratch = object_key(&format!("{}{identity}", layout::PROBE));
        if let Some(remark) = prove_guarding(storage.as_ref(), &scratch).await?.remark() {
            tracing::warn!("repo {} ({}): {remark}", settings.number, storage.describe());
        }
        storage.prove_lock().await?;
        let mut repository =
            Repository { number: settings.number, storage, identity, keys: BTreeMap::new(), plain };
        repository.refuse_lost_identity().await?;
        if let Some(source) = &settings.secret {
            let secret = load(source).await?;
            repository.replace_orphaned_slot().await?;
            let key = RepositoryKey::generate(FIRST_GENERATION)?;
            let name: SlotName = FIRST_SLOT.parse().expect("the constant is a valid slot name");
            let slot = KeySlot::wrap(&key, identity, &name, &secret)?;
            repository
                .put_object(Kind::KeySlot, &layout::key_slot(FIRST_GENERATION, FIRST_SLOT), &slot)
                .await?;
            repository.keys.insert(FIRST_GENERATION, key);
        }
        let body =
            RepositoryBody { identity, cipher: settings.cipher(), created: now, layout: settings.layout };
        repository.put_object(Kind::Repository, layout::REPOSITORY, &body).await?;
        Self::open(repository.storage, settings).await
    }

    /// A slot without an identity is what a creation that died left behind: nothing was ever encrypted with it. But a place
    /// that holds anything else has lost its identity, and deleting the slot would lose its backups.
    async fn replace_orphaned_slot(&self) -> Result<(), RepositoryError> {
        self.storage.delete(&object_key(&layout::key_slot(FIRST_GENERATION, FIRST_SLOT))).await?;
        Ok(())
    }

    async fn refuse_lost_identity(&self) -> Result<(), RepositoryError> {
        let top = list_children(self.storage.as_ref(), None).await?;
        let known = |name: &str| name == layout::KEYS || name.starts_with(layout::PROBE);
        let objects = top.objects.iter().map(|object| &object.key);
        match objects.chain(&top.prefixes).find(|key| !known(key.as_str())) {
            None => Ok(()),
            Some(key) => {
                Err(RepositoryError::LostIdentity { place: self.describe(), found: key.to_string() })
            }
        }
    }

    /// Opens one slot of every generation: older objects need older keys.
    async fn unlock(&mut self, secret: &SlotSecret) -> Result<(), RepositoryError> {
        let generations = list_children(self.storage.as_ref(), Some(&object_key(layout::KEYS))).await?;
        let mut refused = None;
        for generation in generations.prefixes {
            let mut opened = false;
            for object in list_children(self.storage.as_ref(), Some(&generation)).await?.objects {
                match self.open_slot(object.key.as_str(), secret).await {
                    Ok(key) => {
                        self.keys.insert(key.generation(), key);
                        opened = true;
                        break;
                    }
                    Err(error) => refused = Some(error),
                }
            }
            if !opened {
                break;
            }
            refused = None;
        }
        match refused {
            Some(error) => Err(error),
            None if self.keys.is_empty() => Err(RepositoryError::NoSlot { place: self.describe() }),
            None => Ok(()),
        }
    }

    async fn open_slot(&self, name: &str, secret: &SlotSecret) -> Result<RepositoryKey, RepositoryError> {
        let missing = || RepositoryError::Missing { place: self.describe(), object: name.to_owned() };
        let slot: KeySlot = self.get_object(Kind::KeySlot, name).await?.ok_or_else(missing)?;
        if layout::key_slot(slot.generation, slot.name.as_str()) != name {
            return Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: name.to_owned(),
                reason: "it was written for another slot".into(),
            });
        }
        Ok(slot.unwrap(self.identity, secret)?)
    }

    pub fn number(&self) -> RepoKey {
        self.number
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn storage(&self) -> &dyn Storage {
        self.storage.as_ref()
    }

    /// Where it keeps files as such, if it does.
    pub fn plain(&self) -> Option<&PlainFiles> {
        self.plain.as_ref()
    }

    /// What and where it is, for people.
    pub fn describe(&self) -> String {
        self.storage.describe()
    }

    pub fn is_encrypted(&self) -> bool {
        !self.keys.is_empty()
    }

    pub fn cipher(&self) -> Cipher {
        if self.is_encrypted() { Cipher::Aes256Gcm } else { Cipher::None }
    }

    /// Of the newest generation, for people to compare.
    pub fn key_fingerprint(&self) -> Option<Fingerprint> {
        self.writing_key().map(RepositoryKey::fingerprint)
    }

    /// Those whose keys are at hand; none without encryption.
    pub fn key_generations(&self) -> impl Iterator<Item = KeyGeneration> + '_ {
        self.keys.keys().copied()
    }

    pub(crate) fn writing_key(&self) -> Option<&RepositoryKey> {
        self.keys.last_key_value().map(|(_, key)| key)
    }

    pub(crate) fn key_of(&self, generation: KeyGeneration) -> Result<&RepositoryKey, RepositoryError> {
        self.keys.get(&generation).ok_or_else(|| {
            if self.keys.is_empty() {
                RepositoryError::NoKey { place: self.describe() }
            } else {
                RepositoryError::NoSlot {
                    place: format!("{} (key generation {generation})", self.describe()),
                }
            }
        })
    }
}

/// Files that lie as such are not encrypted, and need a store that has files.
fn plain_files(
    storage: &dyn Storage,
    settings: &RepositorySettings,
) -> Result<Option<PlainFiles>, RepositoryError> {
    match settings.layout {
        Layout::Packed => Ok(None),
        Layout::Plain if settings.secret.is_some() => {
            Err(RepositoryError::PlainAndEncrypted { place: storage.describe() })
        }
        Layout::Plain => PlainFiles::of(storage).map(Some),
    }
}

/// Reading files, running a command and argon2id are no work for an async thread.
async fn load(source: &KeySource) -> Result<SlotSecret, RepositoryError> {
    let source = source.clone();
    let loaded = tokio::task::spawn_blocking(move || load_secret(&source)).await;
    Ok(loaded.map_err(|_| RepositoryError::Interrupted { what: "loading a key" })??)
}

pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], RepositoryError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| RepositoryError::Seal {
        place: "this host".into(),
        source: crate::seal::SealError::NoRandomness { reason: error.to_string() },
    })?;
    Ok(bytes)
}
