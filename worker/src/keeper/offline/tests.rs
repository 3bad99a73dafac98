#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::Site;

#[tokio::test]
async fn a_cluster_is_untouched_while_pg_control_stays_and_no_postmaster_came() {
    let site = Site::new().await;
    let before = read_control(&site.pg()).unwrap().bytes;
    check_untouched(&site.pg(), &before).unwrap();

    site.write("postmaster.pid", b"1\n");
    assert_eq!(check_untouched(&site.pg(), &before).unwrap_err().code.number(), 38);
    std::fs::remove_file(site.pg().join("postmaster.pid")).unwrap();
    check_untouched(&site.pg(), &before).unwrap();

    site.write_other_control();
    let failure = check_untouched(&site.pg(), &before).unwrap_err();
    assert_eq!(failure.code.number(), 38);
    assert!(failure.hints[0].contains("online"));
}
