#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;

const KIND: &str = "multipart/mixed; boundary=batchresponse_66925647";

/// As Azure documents it, for three requests of which the last found no blob.
const DOCUMENTED: &str = "--batchresponse_66925647\r\n\
Content-Type: application/http \r\n\
Content-ID: 0 \r\n\
\r\n\
HTTP/1.1 202 Accepted \r\n\
x-ms-request-id: 778fdc83-801e-0000-62ff-0334671e284f \r\n\
x-ms-version: 2018-11-09 \r\n\
\r\n\
--batchresponse_66925647\r\n\
Content-Type: application/http\r\n\
Content-ID: 2\r\n\
\r\n\
HTTP/1.1 404 The specified blob does not exist.\r\n\
x-ms-error-code: BlobNotFound\r\n\
Content-Length: 216\r\n\
Content-Type: application/xml\r\n\
\r\n\
<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n\
<Error><Code>BlobNotFound</Code><Message>The specified blob does not exist.\r\n\
RequestId:778fdc83</Message></Error>\r\n\
--batchresponse_66925647\r\n\
Content-Type: application/http\r\n\
Content-ID: 1\r\n\
\r\n\
HTTP/1.1 202 Accepted\r\n\
\r\n\
--batchresponse_66925647--\r\n\
0";

fn parse(kind: Option<&str>, body: &[u8], asked: usize) -> Result<Answer, Misread> {
    super::parse(kind, body, asked, |text| text.parse().ok())
}

fn documented() -> String {
    DOCUMENTED.trim_end_matches('0').to_owned()
}

fn statuses(answer: Answer) -> Vec<u16> {
    match answer {
        Answer::OfParts(parts) => parts.iter().map(|part| part.status).collect(),
        Answer::OfAll(part) => panic!("of all: {part:?}"),
    }
}

fn reason(kind: &str, body: &str) -> String {
    match parse(Some(kind), body.as_bytes(), 3) {
        Ok(answer) => panic!("taken: {answer:?}"),
        Err(misread) => {
            assert_eq!(misread.flaw == Flaw::Cut, misread.reason == "it has no end");
            misread.reason
        }
    }
}

#[test]
fn each_request_gets_the_answer_with_its_number_in_whatever_order_they_come() {
    let quoted = "Multipart/Mixed;charset=x; Boundary=\"batchresponse_66925647\"";
    for (kind, body) in [
        (KIND, documented()),
        (quoted, documented()),
        (KIND, documented().replace("\r\n", "\n")),
        (KIND, format!("\r\n{}", documented().trim_end())),
    ] {
        assert_eq!(statuses(parse(Some(kind), body.as_bytes(), 3).unwrap()), [202, 202, 404], "{body}");
    }
    let Ok(Answer::OfParts(parts)) = parse(Some(KIND), documented().as_bytes(), 3) else { panic!("parts") };
    assert_eq!(parts[2].header("x-ms-error-code"), Some("BlobNotFound"));
    assert!(parts[2].body.starts_with("<?xml") && parts[2].body.ends_with("</Error>\r\n"));
}

#[test]
fn what_is_no_whole_answer_to_each_request_is_an_error() {
    let whole = documented();
    let change = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}");
        whole.replacen(from, to, 1)
    };
    let end = "--batchresponse_66925647--\r\n";
    let table = [
        (change("Content-ID: 1", "Content-ID: 0"), "request 0 is answered twice"),
        (change("Content-ID: 1", "Content-ID: 3"), "3 is no request of it"),
        (change("Content-ID: 1", "Content-ID: -1"), "'-1' is no request of it"),
        (change("Content-ID: 1", "Content-ID: one"), "'one' is no request of it"),
        (change("Content-ID: 1", "Content-ID: 1\r\nContent-ID: 1"), "two of content-id"),
        (change("Content-ID: 1\r\n", ""), "does not say what it answers"),
        (change("Content-Type: application/http\r\nContent-ID: 2", "Content-ID: 2"), "not application/http"),
        (change("application/http\r\n", "text/html\r\n"), "not application/http"),
        (change("HTTP/1.1 202 Accepted\r\n", "202 Accepted\r\n"), "'202 Accepted' is no status"),
        (change("HTTP/1.1 202 Accepted\r\n", "HTTP/1.1 20x Accepted\r\n"), "is no status"),
        (change("HTTP/1.1 202 Accepted\r\n", "HTTP/1.1 2020 Accepted\r\n"), "is no status"),
        (change("HTTP/1.1 202 Accepted\r\n", "HTTP/1.1\r\n"), "is no status"),
        (change("x-ms-version: 2018-11-09", "x-ms-version"), "'x-ms-version' is no header"),
        (change(end, ""), "it has no end"),
        (change(end, "--batchresponse_66925647\r\n"), "it has no end"),
        (format!("{whole}more"), "it goes on behind its end"),
        (format!("{whole}{whole}"), "it goes on behind its end"),
        (format!("<html>{whole}"), "it does not begin with its boundary"),
        (whole.replace("batchresponse_66925647", "other"), "it does not begin with its boundary"),
        (end.to_owned(), "it has no parts"),
        (String::new(), "it has no end"),
    ];
    for (body, expected) in table {
        let reason = reason(KIND, &body);
        assert!(reason.contains(expected), "{expected}: {reason}\n{body}");
    }
    let (first, _) = whole
        .split_once("--batchresponse_66925647\r\nContent-Type: application/http\r\nContent-ID: 2")
        .unwrap();
    assert_eq!(reason(KIND, &format!("{first}{end}")), "1 of 3 requests are answered");
    for kind in
        ["", "text/html", "multipart/mixed", "multipart/mixed; boundary=", "multipart/mixed; boundary=a b"]
    {
        let reason = reason(kind, &whole);
        assert!(
            reason.contains("multipart/mixed") || reason.contains("names no boundary"),
            "{kind}: {reason}"
        );
    }
    assert!(parse(None, whole.as_bytes(), 3).is_err());
    let long = "x".repeat(5000);
    assert!(reason(&long, &whole).len() < 200, "what a server sends is not shown at length");
}

#[test]
fn an_answer_cut_anywhere_or_with_any_line_gone_is_never_taken_for_one_to_all() {
    let whole = documented();
    let end = whole.trim_end().len();
    for cut in 0..end {
        let misread = parse(Some(KIND), &whole.as_bytes()[..cut], 3).unwrap_err();
        // Within the line of the boundary it begins with something else.
        assert!(misread.flaw == Flaw::Cut || cut < 24, "cut at {cut}: {misread:?}");
    }
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    for gone in 0..lines.len() {
        let body: String =
            lines.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, line)| *line).collect();
        if let Ok(answer) = parse(Some(KIND), body.as_bytes(), 3) {
            assert_eq!(statuses(answer), [202, 202, 404], "without {:?}", lines[gone]);
        }
    }
}

#[test]
fn a_single_part_without_a_number_answers_for_all_unless_it_is_a_success() {
    let body = |status: &str| {
        format!(
            "--batchresponse_66925647\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status}\r\n\
             x-ms-error-code: InvalidInput\r\n\r\n<Error/>\r\n--batchresponse_66925647--"
        )
    };
    match parse(Some(KIND), body("400 One of the inputs is not valid.").as_bytes(), 3) {
        Ok(Answer::OfAll(part)) => assert_eq!(part.status, 400),
        other => panic!("{other:?}"),
    }
    assert!(reason(KIND, &body("202 Accepted")).contains("does not say what it answers"));
}

#[test]
fn an_answer_that_names_no_request_is_told_from_one_that_misses_some() {
    let whole = documented();
    let flaw = |body: &str| parse(Some(KIND), body.as_bytes(), 3).unwrap_err().flaw;
    let nameless: String =
        whole.split_inclusive('\n').filter(|line| !line.starts_with("Content-ID")).collect();
    assert_eq!(flaw(&nameless), Flaw::Nameless);
    assert_eq!(flaw(&nameless.replace("\r\n\r\nHTTP/1.1", "\r\nHTTP/1.1")), Flaw::Nameless);
    assert_eq!(flaw(&whole.replace("\r\n\r\nHTTP/1.1", "\r\nHTTP/1.1")), Flaw::Garbled);
    assert_eq!(flaw(&whole.replacen("Content-ID: 1\r\n", "", 1)), Flaw::Garbled);
    assert_eq!(flaw("<html>"), Flaw::Garbled);
}
