//! A daemon reads its configuration anew: all of it, or none.
//!
//! Invariant: whatever is wrong with the new one, its file or a certificate that it names, leaves the old one in place, and is
//! in the log.

use crate::context::{Context, Current};
use crate::output::Failures;
use crate::{logging, member, signals};
use pgconvoy_core::config::Config;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_transport::pki::{Credentials, Member};

/// What a daemon is bound to since it started, and how it takes up the rest.
pub struct Reload<'a> {
    pub current: &'a Current,
    pub member: &'a Member,
    /// Names settings that differ and need a restart.
    pub needs_restart: fn(&Config, &Config) -> Vec<&'static str>,
}

impl Reload<'_> {
    /// `take_up` refuses what cannot be, before it changes anything.
    pub fn run(&self, take_up: impl FnOnce(&Context, &Credentials) -> Result<(), Failure>) {
        signals::reloading(|| match self.try_to(take_up) {
            Ok(()) => tracing::warn!("the configuration was reloaded"),
            Err(failures) => {
                for failure in failures.iter() {
                    tracing::error!("[{}]: {failure}", failure.code);
                }
                tracing::error!("the configuration was not reloaded: the old one holds");
            }
        });
    }

    fn try_to(
        &self,
        take_up: impl FnOnce(&Context, &Credentials) -> Result<(), Failure>,
    ) -> Result<(), Failures> {
        let old = self.current.get();
        let new = old.again()?;
        let credentials = member::credentials(member::fleet(&new.config)?)?;
        if credentials.member() != self.member {
            let message = format!(
                "the certificate is that of {} now, and was that of {}",
                credentials.member().identity,
                self.member.identity
            );
            return Err(Failure::new(ErrorCode::Access, message)
                .hint("restart the daemon if it is to be somebody else")
                .into());
        }
        take_up(&new, &credentials)?;
        logging::set_levels(&new.config.log);
        tracing::debug!("lines are shown from level {:?} on", new.config.log.console);
        for setting in (self.needs_restart)(&old.config, &new.config) {
            tracing::warn!("{setting} has changed, and takes effect after a restart");
        }
        self.current.replace(new);
        Ok(())
    }
}
