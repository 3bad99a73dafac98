//! Clusters of a stanza: which PostgreSQL a stanza is, and was.

use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::list_children;

impl Repository {
    /// All clusters that the stanza has had, oldest first; empty if there is no such stanza.
    pub async fn clusters(&self, stanza: &StanzaName) -> Result<Vec<ClusterBody>, RepositoryError> {
        let listing = list_children(self.storage(), Some(&object_key(&layout::clusters(stanza)))).await?;
        let mut clusters = Vec::new();
        for object in listing.objects {
            let name = object.key.as_str();
            let missing = || RepositoryError::Missing { place: self.describe(), object: name.to_owned() };
            let body: ClusterBody = self.get_object(Kind::Cluster, name).await?.ok_or_else(missing)?;
            if layout::cluster(stanza, body.number) != name || !body.hash_secret.is_valid() {
                return Err(RepositoryError::Contradiction {
                    place: self.describe(),
                    object: name.to_owned(),
                    reason: "it describes another cluster".into(),
                });
            }
            clusters.push(body);
        }
        Ok(clusters)
    }

    /// The stanza's newest cluster.
    pub async fn cluster(&self, stanza: &StanzaName) -> Result<ClusterBody, RepositoryError> {
        self.clusters(stanza)
            .await?
            .pop()
            .ok_or_else(|| RepositoryError::NoStanza { place: self.describe(), stanza: stanza.clone() })
    }

    /// Create-only, like everything: of two that create at once, one learns that the other was first.
    pub async fn create_cluster(
        &self,
        stanza: &StanzaName,
        cluster: &ClusterBody,
    ) -> Result<(), RepositoryError> {
        self.put_object(Kind::Cluster, &layout::cluster(stanza, cluster.number), cluster).await
    }

    /// Names of all stanzas.
    pub async fn stanzas(&self) -> Result<Vec<StanzaName>, RepositoryError> {
        let listing = list_children(self.storage(), None).await?;
        let names = listing.prefixes.iter().filter(|prefix| prefix.as_str() != layout::KEYS);
        Ok(names.filter_map(|prefix| prefix.as_str().parse().ok()).collect())
    }
}
