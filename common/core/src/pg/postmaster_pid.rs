//! `postmaster.pid`: which server runs on a data directory.
//!
//! Not here: whether that process is alive, and whether it is the server somebody is connected to.
//!
//! Source: `utils/pidfile.h`. A starting server writes the first lines at once and the later ones as it learns them.

use crate::pg::PgFormatError;

/// The last line, as `pg_ctl` waits for it. Since 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostmasterStatus {
    Starting,
    Stopping,
    Ready,
    /// Up, but takes no connections: a standby without hot_standby.
    Standby,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostmasterPid {
    pub pid: u32,
    /// As the server was given it; compare by what it leads to.
    pub data_directory: String,
    /// Seconds since 1970.
    pub start_time: i64,
    pub port: Option<u16>,
    /// None where the server has no Unix socket.
    pub socket_directory: Option<String>,
    /// The first address the server listens on; none where it does not listen on TCP.
    pub listen_address: Option<String>,
    pub status: Option<PostmasterStatus>,
    /// A single-user backend, which serves nobody.
    pub standalone: bool,
}

const WHAT: &str = "postmaster.pid";

impl PostmasterPid {
    pub fn parse(text: &str) -> Result<Self, PgFormatError> {
        let refuse = |part: &str, reason| PgFormatError::new(WHAT, part, reason);
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default();
        let pid_line = next().trim();
        let data_directory = next();
        let start_line = next().trim();
        let (port, socket_directory, listen_address) = (next().trim(), next().trim_end(), next().trim());
        // The seventh line identifies the shared memory, which concerns the server alone.
        let status = lines.nth(1).map(str::trim).unwrap_or_default();

        let pid: i64 = pid_line.parse().map_err(|_| refuse(pid_line, "its first line is no process id"))?;
        let positive = u32::try_from(pid.unsigned_abs()).ok().filter(|pid| *pid > 0);
        if data_directory.is_empty() {
            return Err(refuse(text, "it names no data directory"));
        }
        let present = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(PostmasterPid {
            pid: positive.ok_or_else(|| refuse(pid_line, "its first line is no process id"))?,
            data_directory: data_directory.to_owned(),
            start_time: start_line.parse().map_err(|_| refuse(start_line, "its third line is no time"))?,
            port: port.parse().ok().filter(|port| *port > 0),
            socket_directory: present(socket_directory),
            listen_address: present(listen_address),
            status: match status {
                "starting" => Some(PostmasterStatus::Starting),
                "stopping" => Some(PostmasterStatus::Stopping),
                "ready" => Some(PostmasterStatus::Ready),
                "standby" => Some(PostmasterStatus::Standby),
                _ => None,
            },
            standalone: pid < 0,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_running_server_of_18_wrote_is_understood() {
        let text =
            "9325\n/srv/data/p18\n1795422932\n26018\n/srv/data\n127.0.0.1\n 10068284        44\nready   \n";
        let expected = PostmasterPid {
            pid: 9325,
            data_directory: "/srv/data/p18".to_owned(),
            start_time: 1_795_422_932,
            port: Some(26018),
            socket_directory: Some("/srv/data".to_owned()),
            listen_address: Some("127.0.0.1".to_owned()),
            status: Some(PostmasterStatus::Ready),
            standalone: false,
        };
        assert_eq!(PostmasterPid::parse(text).unwrap(), expected);
    }

    #[test]
    fn a_server_that_just_began_has_fewer_lines() {
        let starting = PostmasterPid::parse("77\n/srv/data\n1795422932\n5432\n/tmp\n\n").unwrap();
        assert_eq!((starting.port, starting.listen_address, starting.status), (Some(5432), None, None));
        let single = PostmasterPid::parse("-77\n/srv/data\n1795422932\n0\n\n\n").unwrap();
        assert_eq!(
            (single.pid, single.standalone, single.port, single.socket_directory),
            (77, true, None, None)
        );
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        for bad in ["", "\n", "0\n/a\n1\n", "x\n/a\n1\n", "5\n\n1\n", "5\n/a\nx\n", "99999999999\n/a\n1\n"] {
            assert!(PostmasterPid::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(-?[0-9]{0,20}\n|\\PC{0,9}\n?){0,9}") {
            let _ = PostmasterPid::parse(&text);
        }
    }
}
