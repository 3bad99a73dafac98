//! The dashboard of a real fleet, in a real browser: what an operator sees and does with a keyboard, and what hostile hands get.

mod support;

use reqwest::header::{COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::{Client, Method, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::browser::Browser;
use support::fleet::{Fleet, FleetOptions};
use support::middle::{beside_the_source, is_done, limited, site};
use support::{Context, Json, Program, Result, Site, SiteOptions, api, ensure, limits, note};
use tokio::runtime::Runtime;

/// Units small enough to see them move, and read slowly enough.
const SLOW: [&str; 2] = ["--unit-size=1MiB", "--compress-type=none"];
/// Of each worker: the lease of the one that is killed is over before the other one is done.
const RATE: &str = "2MiB";
const PARSER_HOME: &str = "/opt/pgconvoy-tests/prometheus";

/// Units on the map that are done, and all.
const ON_THE_MAP: &str = "(() => { const { done, total } = document.getElementById('map').dataset; return [Number(done || 0), Number(total || 0)]; })()";

/// The page has its stream.
const IS_LIVE: &str = "document.getElementById('alive').dataset.alive === 'live'";

fn log_in(browser: &mut Browser, address: &str, token: &str) -> Result<()> {
    browser.go(&format!("{address}/"))?;
    browser
        .until("the login page", "location.pathname === '/login' && document.activeElement.id === 'token'")?;
    browser.picture("login")?;
    browser.type_text(token)?;
    browser.press("Enter")?;
    browser
        .until("the fleet page", "location.pathname === '/' && document.querySelector('#stanzas table')")?;
    browser.until("a live page", IS_LIVE)?;
    Ok(())
}

fn await_state(browser: &mut Browser, state: &str) -> Result<()> {
    let script = format!(
        "document.readyState === 'complete' && document.getElementById('main').dataset.state === '{state}'"
    );
    browser.until(&format!("a job that is {state}"), &script).map(drop)
}

/// At least so many units are done on the map.
fn await_done(browser: &mut Browser, least: u64) -> Result<u64> {
    let script = format!(
        "(() => {{ const [done, total] = {ON_THE_MAP}; return total > 0 && done >= {least} && done; }})()"
    );
    browser.until(&format!("{least} units done on the map"), &script)?.as_u64().context("units")
}

/// Nothing was asked of another host, and nobody complained.
fn was_quiet(browser: &mut Browser, addresses: &[String]) -> Result<()> {
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the console says {complaints:#?}");
    let asked_for = browser.asked_for()?;
    ensure!(asked_for.len() > 5, "only {asked_for:?} was asked for");
    let is_ours = |url: &&String| addresses.iter().any(|address| url.starts_with(address.as_str()));
    let elsewhere: Vec<&String> =
        asked_for.iter().filter(|url| !is_ours(url) && *url != "about:blank").collect();
    ensure!(elsewhere.is_empty(), "other hosts are asked: {elsewhere:?}");
    Ok(())
}

/// From the fleet page to the job that runs, with the keyboard.
fn walk_to_the_job(browser: &mut Browser, id: &str) -> Result<()> {
    browser.until("the running job", &format!("document.getElementById('live-{id}')"))?;
    browser.picture("fleet")?;
    browser.tab_to("the running job", &format!("element.id === 'live-{id}'"))?;
    browser.press("Enter")?;
    browser.until("its page", &format!("location.pathname === '/jobs/{id}'"))?;
    await_state(browser, "running")
}

fn press_button(browser: &mut Browser, text: &str) -> Result<()> {
    browser.eval("document.activeElement.blur()")?;
    browser.tab_to(text, &format!("element.tagName === 'BUTTON' && element.textContent === '{text}'"))?;
    browser.press("Enter")
}

fn asks_the_map(browser: &mut Browser) -> Result<()> {
    browser.tab_to("the map", "element.id === 'map'")?;
    for key in ["Home", "ArrowRight", "Enter"] {
        browser.press(key)?;
    }
    browser.until(
        "what is known of a unit",
        "/^Unit 1: .*MiB planned/.test(document.getElementById('unit').textContent)",
    )?;
    Ok(())
}

fn looks_well_everywhere(browser: &mut Browser, page: &str) -> Result<()> {
    browser.picture(page)?;
    browser.dark(true)?;
    browser.picture(&format!("{page}-dark"))?;
    browser.size(390, 844, true)?;
    browser.picture(&format!("{page}-phone-dark"))?;
    ensure!(!browser.overflows()?, "the {page} page is wider than a phone");
    browser.dark(false)?;
    browser.picture(&format!("{page}-phone"))?;
    browser.size(1440, 1000, false)
}

#[test]
fn an_operator_watches_a_backup_pauses_it_and_sees_the_units_of_a_killed_worker_move() -> Result<()> {
    let site = site()?;
    let mut fleet = Fleet::start(&site, &limited(RATE))?;
    let mut browser = Browser::start(&site.scratch, &fleet.key_hashes()?)?;
    // Pages of a follower are the leader's.
    let here = 1 - fleet.leader()?;
    let address = fleet.address(here)?;
    log_in(&mut browser, &address, &fleet.token(&site, "operator")?)?;
    looks_well_everywhere(&mut browser, "fleet-idle")?;

    let id = fleet.submit_backup(&SLOW)?;
    walk_to_the_job(&mut browser, &id)?;
    let first = await_done(&mut browser, 3)?;
    await_done(&mut browser, first + 5)?;
    asks_the_map(&mut browser)?;
    looks_well_everywhere(&mut browser, "job-running")?;

    press_button(&mut browser, "Pause")?;
    await_state(&mut browser, "paused")?;
    browser.until(
        "nothing in hand",
        "/in hand 0/.test(document.getElementById('legend').textContent.replace(/\\s+/g, ' '))",
    )?;
    assert_eq!(fleet.job(&id)?["state"], "paused");
    looks_well_everywhere(&mut browser, "job-paused")?;
    press_button(&mut browser, "Resume")?;
    await_state(&mut browser, "running")?;

    let other = beside_the_source(&fleet, &id)?;
    let name = fleet.workers[other].name.clone();
    let in_hand = || {
        format!(
            "(() => {{ for (const row of document.querySelectorAll('#parts-of-workers tr')) {{ const [worker, state, held] = row.children; if (worker.textContent.startsWith('{name}')) return `${{state.textContent}} ${{held.textContent}}`; }} return ''; }})()"
        )
    };
    browser.until("units in the hands of both", &format!("/up [1-9]/.test({})", in_hand()))?;
    fleet.workers[other].kill()?;
    browser.until("a worker that is lost", &format!("/lost 0$/.test({})", in_hand()))?;
    let said = browser.text("document.getElementById('said').textContent")?;
    ensure!(said.contains("lost") && said.contains(&name), "nothing was read aloud: '{said}'");
    browser.picture("job-worker-lost")?;
    let again = "/, [1-9][0-9]* begun again/.test(document.getElementById('legend').textContent)";
    browser.until("its units in other hands", again)?;
    browser.picture("job-again")?;

    await_state(&mut browser, "done")?;
    browser.until(
        "a map that is done",
        &format!("(() => {{ const [done, total] = {ON_THE_MAP}; return total > 0 && done === total; }})()"),
    )?;
    is_done(&fleet.await_end(&id)?)?;
    looks_well_everywhere(&mut browser, "job-done")?;
    browser.go(&format!("{address}/"))?;
    browser.until("the new backup", "/full/.test(document.getElementById('stanzas').textContent) && /2 of 2|1 of 1/.test(document.getElementById('tiles').textContent)")?;
    looks_well_everywhere(&mut browser, "fleet-after")?;
    was_quiet(&mut browser, &[address])?;
    tells_prometheus(&site, &fleet, here)
}

/// What both coordinators tell, as Prometheus's own parser for Python reads it.
fn tells_prometheus(site: &Site, fleet: &Fleet, follower: usize) -> Result<()> {
    let token = fleet.token(site, "operator")?;
    let told = |coordinator: usize, token: &str| -> Result<(u16, String)> {
        let hands = Hands::of(fleet, coordinator)?;
        let request = hands.request(Method::GET, "/metrics", "");
        let (status, _, text) = hands.send(request.header("authorization", format!("Bearer {token}")))?;
        Ok((status, text))
    };
    let (of_leader, of_follower) = (read(&told(1 - follower, &token)?.1)?, read(&told(follower, &token)?.1)?);
    let names = |samples: &Json| -> BTreeSet<String> {
        let names = samples.as_array().into_iter().flatten();
        names.filter_map(|sample| Some(sample[0].as_str()?.to_owned())).collect()
    };
    for name in [
        "pgconvoy_coordinator_leader",
        "pgconvoy_workers",
        "pgconvoy_jobs",
        "pgconvoy_job_last_success",
        "pgconvoy_backup_age_seconds",
        "pgconvoy_backup_last_page_errors",
        "pgconvoy_repository_up",
        "pgbackrest_stanza_status",
        "pgbackrest_repo_status",
        "pgbackrest_backup_info",
        "pgbackrest_backup_duration_seconds",
        "pgbackrest_backup_since_last_completion_seconds",
        "pgbackrest_wal_archive_status",
        "pgbackrest_exporter_status",
    ] {
        ensure!(names(&of_leader).contains(name), "{name} is missing: {:?}", names(&of_leader));
    }
    ensure!(!names(&of_follower).contains("pgconvoy_workers"), "a sum would count the fleet twice");
    let value = |name: &str, label: (&str, &str)| {
        let samples = of_leader.as_array().into_iter().flatten();
        let mut found = samples.filter(|sample| sample[0] == name && sample[1][label.0] == label.1);
        found.next().and_then(|sample| sample[2].as_f64())
    };
    assert_eq!(value("pgbackrest_repo_status", ("repo_key", "2")), Some(0.0));
    assert_eq!(value("pgbackrest_backup_info", ("backup_type", "full")), Some(1.0));
    assert_eq!(value("pgconvoy_workers", ("state", "lost")), Some(1.0));
    assert_eq!(value("pgconvoy_job_last_success", ("stanza", "main")), Some(1.0));
    Ok(())
}

/// `[name, labels, value]` of each sample.
fn read(text: &str) -> Result<Json> {
    const SCRIPT: &str = "import sys, json\n\
        from prometheus_client.parser import text_string_to_metric_families as families\n\
        print(json.dumps([[s.name, s.labels, s.value] for f in families(sys.stdin.read()) for s in f.samples]))";
    let home = std::path::Path::new(PARSER_HOME);
    ensure!(home.exists(), "{PARSER_HOME}: ./tests/run.sh installs it");
    let program = Program::as_ourselves("python3").env("PYTHONPATH", home).args(["-c", SCRIPT]);
    program.stdin_text(text)?.run(limits::TOOL)?.ok()?.json()
}

/// Somebody who asks without a browser.
struct Hands {
    client: Client,
    address: String,
    runtime: Runtime,
}

impl Hands {
    fn of(fleet: &Fleet, coordinator: usize) -> Result<Hands> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = api::client(&fleet.pki().join("ca.crt"))?;
        Ok(Hands { client, address: fleet.address(coordinator)?, runtime })
    }

    fn request(&self, method: Method, path: &str, cookie: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.address));
        if cookie.is_empty() { request } else { request.header(COOKIE, format!("__Host-pgconvoy={cookie}")) }
    }

    /// Status, where it leads, and text.
    fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, String, String)> {
        self.runtime.block_on(async {
            let answer = request.send().await?;
            let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
            let (status, location) =
                (answer.status().as_u16(), header(LOCATION).unwrap_or_default().to_owned());
            let policy = header(reqwest::header::CONTENT_SECURITY_POLICY).unwrap_or_default().to_owned();
            ensure!(policy.contains("default-src 'self'"), "{status} without a policy: {policy}");
            Ok((status, location, answer.text().await?))
        })
    }

    fn get(&self, path: &str, cookie: &str) -> Result<(u16, String, String)> {
        self.send(self.request(Method::GET, path, cookie))
    }

    fn post(&self, path: &str, cookie: &str, origin: &str, body: &str) -> Result<u16> {
        let request = self.request(Method::POST, path, cookie).header(ORIGIN, origin);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        Ok(self.send(request.body(body.to_owned()))?.0)
    }

    /// The proof that a page of that session bears.
    fn proof(&self, cookie: &str) -> Result<String> {
        let (status, _, text) = self.get("/", cookie)?;
        ensure!(status == 200, "{status}: {text}");
        let (_, after) = text.split_once("name=\"proof\" value=\"").context("a form")?;
        Ok(after.chars().take_while(char::is_ascii_hexdigit).collect())
    }
}

/// Texts that end what they stand in, in one way or another.
const HOSTILE: [&str; 4] = [
    "<script>window.taken = 1</script>",
    "\"'><img src=x onerror=window.taken=1>",
    "\u{202e}gnp.exe",
    "`${window.taken=1}`",
];

#[test]
fn hostile_names_forms_tokens_and_a_thousand_streams_are_refused_or_harmless() -> Result<()> {
    let files = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: files, maximum: files })?;
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let fleet = Fleet::start(&site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    fleet.client_of(&site, "viewer")?;
    let (operator, viewer) = (fleet.token(&site, "operator")?, fleet.token(&site, "viewer")?);
    let hands = Hands::of(&fleet, 1 - fleet.leader()?)?;
    nobody_gets_in(&hands, &operator)?;
    let id = hostile_job(&hands, &operator)?;
    only_forms_of_the_session_count(&hands, &id, &operator, &viewer)?;
    let mut browser = Browser::start(&site.scratch, &fleet.key_hashes()?)?;
    shows_hostile_texts_as_texts(&mut browser, &hands, &id, &operator)?;
    cancels_with_the_keyboard(&mut browser, &fleet)?;
    // Before the crowd: at its end places are free only when the coordinators have heard of it.
    browser.go(&format!("{}/", hands.address))?;
    browser.until("a live page", IS_LIVE)?;
    bears_a_thousand_streams(&hands, &operator)?;
    ensure!(browser.eval(IS_LIVE)? == true, "an open page lost its stream to a crowd");
    a_revoked_token_is_out_at_once(&mut browser, &fleet, &hands, &operator)?;
    was_quiet(&mut browser, std::slice::from_ref(&hands.address))
}

fn nobody_gets_in(hands: &Hands, token: &str) -> Result<()> {
    assert_eq!(hands.get("/", "")?.1, "/login");
    assert_eq!(hands.get("/jobs/1", "")?.1, "/login?next=/jobs/1");
    assert_eq!(hands.get("/events", "")?.0, 401);
    for wrong in ["x", "pgc_0000000000000000_x", "\"; Domain=evil"] {
        let (status, location, _) = hands.get("/", wrong)?;
        assert_eq!((status, location.as_str()), (303, "/login"), "{wrong}");
    }
    let (address, entry) = (hands.address.as_str(), format!("token={token}&next=/"));
    assert_eq!(hands.post("/login", "", address, "token=nonsense&next=/")?, 401);
    assert_eq!(hands.post("/login", "", "https://evil.example", &entry)?, 403);
    assert_eq!(hands.post("/login", "", address, &entry)?, 303);
    let onward = hands.request(Method::POST, "/login", "").header(ORIGIN, address);
    let onward = onward.header("content-type", "application/x-www-form-urlencoded");
    let onward = onward.body(format!("token={token}&next=%2F%2Fevil.example"));
    let cookie = hands.runtime.block_on(async { onward.send().await })?;
    let header = |name| cookie.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(header(LOCATION), "/");
    for word in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
        ensure!(header(SET_COOKIE).contains(word), "the cookie is not {word}");
    }
    Ok(())
}

/// One whose options are hostile; names of stanzas and workers are refused before anybody sees them.
fn hostile_job(hands: &Hands, token: &str) -> Result<String> {
    let submit = |body: Json| -> Result<(u16, Json)> {
        let request = hands.request(Method::POST, "/api/v1/jobs", "");
        let request = request.header("authorization", format!("Bearer {token}")).body(body.to_string());
        let (status, _, text) = hands.send(request)?;
        Ok((status, serde_json::from_str(&text)?))
    };
    for name in HOSTILE {
        let body = serde_json::json!({"kind": "backup", "stanza": name, "options": {"type": "full"}});
        assert_eq!(submit(body)?.0, 422, "{name}");
    }
    let options = serde_json::json!({"type": "full", "exclude": HOSTILE.map(|text| format!("note={text}"))});
    let (status, told) = submit(serde_json::json!({"kind": "backup", "stanza": "main", "options": options}))?;
    ensure!(status == 201, "{told}");
    Ok(told["id"].as_str().context("a job")?.to_owned())
}

fn only_forms_of_the_session_count(hands: &Hands, id: &str, operator: &str, viewer: &str) -> Result<()> {
    let here = hands.address.clone();
    let (of_operator, of_viewer) = (hands.proof(operator)?, hands.proof(viewer)?);
    let path = format!("/jobs/{id}/cancel");
    let page = hands.get(&format!("/jobs/{id}"), viewer)?.2;
    ensure!(!page.contains("/cancel\"") && !page.contains("Pause"), "a viewer is shown buttons");
    for (who, token, origin, proof, status) in [
        ("a viewer with a good form", viewer, here.as_str(), of_viewer.as_str(), 403),
        ("no proof", operator, &here, "", 403),
        ("somebody else's proof", operator, &here, &of_viewer, 403),
        ("a page of another host", operator, "https://evil.example", &of_operator, 403),
        ("a page of nowhere", operator, "null", &of_operator, 403),
    ] {
        assert_eq!(hands.post(&path, token, origin, &format!("proof={proof}"))?, status, "{who}");
    }
    let (status, location, _) = hands.get(&format!("/jobs/{id}/cancel"), operator)?;
    ensure!((400..500).contains(&status) && location.is_empty(), "a link does something: {status}");
    let missing = hands.get("/jobs/%3Cscript%3Ewindow.taken%3D1%3C%2Fscript%3E", operator)?;
    ensure!(missing.0 == 404 && !missing.2.contains("<script>window"), "{}", missing.2);
    Ok(())
}

fn shows_hostile_texts_as_texts(browser: &mut Browser, hands: &Hands, id: &str, token: &str) -> Result<()> {
    log_in(browser, &hands.address, token)?;
    browser.go(&format!("{}/jobs/{id}", hands.address))?;
    browser.until("what was asked for", "document.getElementById('about').textContent.includes('note=')")?;
    let shown = browser.text("document.getElementById('about').textContent")?;
    for text in HOSTILE {
        ensure!(shown.contains(text), "{text} is not shown as it is: {shown}");
    }
    browser.until(
        "the job's end",
        "['done', 'failed'].includes(document.getElementById('main').dataset.state)",
    )?;
    assert_eq!(browser.text("typeof window.taken")?, "undefined");
    assert_eq!(browser.eval("document.querySelectorAll('img, iframe, script:not([src])').length")?, 0);
    browser.picture("job-hostile")
}

/// What is begun and then regretted.
fn cancels_with_the_keyboard(browser: &mut Browser, fleet: &Fleet) -> Result<()> {
    fleet.client.run(["workers", "drain", "worker-0"])?.ok()?;
    let id = fleet.submit("--type=full", &[])?;
    let address = browser.text("location.origin")?;
    browser.go(&format!("{address}/jobs/{id}"))?;
    await_state(browser, "queued")?;
    browser.tab_to("the way to cancel", "element.tagName === 'SUMMARY'")?;
    browser.press("Enter")?;
    press_button(browser, "Cancel this job")?;
    await_state(browser, "cancelled")?;
    assert_eq!(fleet.job(&id)?["state"], "cancelled");
    fleet.client.run(["workers", "undrain", "worker-0"])?.ok()?;
    Ok(())
}

fn bears_a_thousand_streams(hands: &Hands, token: &str) -> Result<()> {
    const STREAMS: usize = 1000;
    let open = async |count: usize| {
        let asked = (0..count).map(|_| hands.request(Method::GET, "/events", token).send());
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().filter_map(std::result::Result::ok).collect::<Vec<Response>>()
    };
    let begin = Instant::now();
    hands.runtime.block_on(async {
        let answers = open(STREAMS).await;
        let count = |status: u16| answers.iter().filter(|answer| answer.status().as_u16() == status).count();
        let (streams, refused) = (count(200), count(503));
        note(format!("{streams} streams, {refused} refused, after {:?}", begin.elapsed()));
        ensure!(streams > 100 && streams <= 256 && refused > 500, "{streams} streams, {refused} refused");
        let asked = Instant::now();
        let page = hands.request(Method::GET, "/", token).timeout(limits::SOON).send().await?;
        ensure!(page.status().as_u16() == 200, "{}", page.status());
        note(format!("a page beside them took {:?}", asked.elapsed()));
        ensure!(asked.elapsed() < Duration::from_secs(5), "a page took {:?}", asked.elapsed());
        drop(answers);
        // Places are free again as soon as the coordinator hears of it.
        let free = async {
            while open(20).await.iter().filter(|answer| answer.status().as_u16() == 200).count() < 20 {
                tokio::task::yield_now().await;
            }
        };
        limits::within(free).await
    })
}

fn a_revoked_token_is_out_at_once(
    browser: &mut Browser,
    fleet: &Fleet,
    hands: &Hands,
    token: &str,
) -> Result<()> {
    fleet.on_host(0, &["token", "revoke", "operator"])?.ok()?;
    let revoked = Instant::now();
    // The page itself learns of it by its stream.
    browser.until("the login page", "location.pathname === '/login'")?;
    note(format!("an open page is out after {:?}", revoked.elapsed()));
    ensure!(revoked.elapsed() < Duration::from_secs(15), "it took {:?}", revoked.elapsed());
    // The page heard of it from the leader; this coordinator knew the token a moment ago, and may not have asked again yet.
    limits::wait_for("a login that is refused", limits::SOON, || {
        let status = hands.post("/login", "", &hands.address, &format!("token={token}&next=/"))?;
        Ok((status == 401).then_some(()))
    })?;
    ensure!(revoked.elapsed() < Duration::from_secs(15), "a login took {:?}", revoked.elapsed());
    assert_eq!(hands.get("/", token)?.1, "/login");
    Ok(())
}
