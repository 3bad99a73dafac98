//! A real standby as a source of its primary's backup: when it is fit, and what makes it another one.

use crate::cluster::{Cluster, PATIENCE, wait_until};
use pgconvoy_core::failure::Classify;
use pgconvoy_core::pg::Lsn;
use pgconvoy_core::wire::{Incarnation, StandbyTerms};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::backup::BackupSession;
use pgconvoy_postgres::control::read_control;
use pgconvoy_postgres::proof::prove_live;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(1500);

async fn begin(primary: &Cluster) -> (BackupSession, StandbyTerms) {
    let session = BackupSession::start(primary.connect().await, "standing by", true).await.unwrap();
    let started = session.started();
    let terms = StandbyTerms {
        system_id: session.client().settings().system_id,
        timeline: started.timeline,
        checkpoint: started.checkpoint_lsn,
        start: started.start_lsn,
    };
    (session, terms)
}

async fn fit(standby: &Cluster, terms: &StandbyTerms) -> Incarnation {
    standby.connect().await.become_source(terms, PATIENCE).await.unwrap()
}

/// As somebody would ask who was never connected before.
async fn confirm(
    standby: &Cluster,
    terms: &StandbyTerms,
    incarnation: &Incarnation,
) -> Result<(), PostgresError> {
    standby.connect().await.confirm_standby(terms, incarnation).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_fit_once_it_has_replayed_the_start_and_made_a_restart_point_of_it() {
    let primary = Cluster::start();
    let standby = primary.start_standby();
    primary.sql("create table t as select generate_series(1, 10000) as n");
    let (session, terms) = begin(&primary).await;
    let incarnation = fit(&standby, &terms).await;
    let control = read_control(&standby.data()).unwrap().control;
    assert!(control.redo >= terms.start, "{} is flushed, {} is needed", control.redo, terms.start);
    let client = standby.connect().await;
    prove_live(&standby.data(), client.settings(), terms.start, &[]).unwrap();
    confirm(&standby, &terms, &incarnation).await.unwrap();
    session.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_behind_says_how_far_it_is_and_that_its_replay_is_paused() {
    let primary = Cluster::start();
    let standby = primary.start_standby();
    standby.sql("select pg_wal_replay_pause()");
    wait_until("the pause", || standby.sql("select pg_get_wal_replay_pause_state()") == "paused");
    primary.sql("create table t as select generate_series(1, 10000) as n");
    let (_session, terms) = begin(&primary).await;
    let refused = standby.connect().await.become_source(&terms, MOMENT).await.unwrap_err();
    assert_eq!(refused.code().number(), 82, "{refused}");
    let told = refused.to_string();
    assert!(
        told.contains("and its replay is paused") && told.contains(&terms.checkpoint.to_string()),
        "{told}"
    );
    assert_eq!(refused.hints().len(), 1);
    standby.sql("select pg_wal_replay_resume()");
    fit(&standby, &terms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_promoted_restarted_or_is_of_another_cluster_is_not_what_it_was() {
    let (primary, other) = (Cluster::start(), Cluster::start());
    let standby = primary.start_standby();
    let (_session, terms) = begin(&primary).await;
    let incarnation = fit(&standby, &terms).await;

    standby.pg_ctl(&["restart", "-m", "fast"]);
    let restarted = confirm(&standby, &terms, &incarnation).await.unwrap_err();
    assert!(restarted.to_string().contains("start time was"), "{restarted}");

    let again = fit(&standby, &terms).await;
    assert_ne!(again, incarnation);
    confirm(&standby, &terms, &again).await.unwrap();
    standby.pg_ctl(&["promote"]);
    let promoted = confirm(&standby, &terms, &again).await.unwrap_err();
    assert_eq!(promoted.code().number(), 58, "{promoted}");
    assert!(promoted.to_string().contains("not in recovery"), "{promoted}");

    let (_other_session, other_terms) = begin(&other).await;
    let stranger = primary.start_standby();
    let refused = stranger.connect().await.become_source(&other_terms, MOMENT).await.unwrap_err();
    assert!(refused.to_string().contains("system identifier was"), "{refused}");
    let never = StandbyTerms { checkpoint: Lsn(u64::MAX), ..terms };
    let behind = stranger.connect().await.become_source(&never, MOMENT).await.unwrap_err();
    assert_eq!(behind.code().number(), 82, "{behind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_follows_another_primary_is_not_what_it_was() {
    let primary = Cluster::start();
    let (standby, next) = (primary.start_standby(), primary.start_standby());
    let (_session, terms) = begin(&primary).await;
    let incarnation = fit(&standby, &terms).await;
    next.pg_ctl(&["promote"]);
    let conninfo = format!("host={} port={} user=postgres", next.home.path().display(), next.port);
    standby.sql(&format!("alter system set primary_conninfo = '{conninfo}'"));
    standby.sql("select pg_reload_conf()");
    wait_until("the other timeline", || {
        standby.sql("select coalesce(max(received_tli), 0) from pg_stat_wal_receiver") == "2"
    });
    let changed = confirm(&standby, &terms, &incarnation).await.unwrap_err();
    assert!(changed.to_string().contains("timeline was 1, is 2"), "{changed}");
}
