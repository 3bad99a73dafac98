//! Watches a job to its end, whoever leads meanwhile.
//!
//! Failure story: a stream that breaks, or is silent, is opened again at any coordinator, with the last event that was seen. When
//! none answers for [`PATIENCE`], that is an error; the job goes on without anybody who watches.

use super::client::{Client, segment};
use crate::progress::Bar;
use crate::runtime::terminated;
use pgconvoy_core::failure::{ErrorCode, Failure};
use reqwest::Response;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A coordinator says something every ten seconds; one that did not for three times that is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long the whole fleet may be away: a restart of its hosts.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE_BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// Text of one event; a job's result may list many damaged files.
const EVENT_BYTES_MAX: usize = 64 << 20;

/// The end of a job as the API tells it. A signal ends the watching, not the job.
pub async fn to_the_end(client: &Client, id: &str) -> Result<Value, Failure> {
    tokio::select! {
        job = watch(client, id) => job,
        signal = terminated() => Err(left_alone(signal, id)),
    }
}

fn left_alone(signal: Failure, id: &str) -> Failure {
    Failure::new(signal.code, format!("{}; job {id} goes on", signal.message))
        .hint(format!("pgconvoy job cancel {id} ends it, pgconvoy job follow {id} watches it"))
}

async fn watch(client: &Client, id: &str) -> Result<Value, Failure> {
    let mut watched = Watched::default();
    let mut heard = Instant::now();
    loop {
        let broken = match client.events(id, watched.last_event.as_deref()).await {
            Ok(mut events) => {
                let broken = watched.read(&mut events, &mut heard).await?;
                if watched.is_over {
                    return Ok(watched.end());
                }
                broken
            }
            Err(failure) if failure.code == ErrorCode::HostConnect => failure,
            Err(failure) => return Err(failure),
        };
        if heard.elapsed() > PATIENCE {
            return Err(broken
                .context(format!("job {id} cannot be watched any more, and goes on"))
                .hint(format!("pgconvoy job follow {} watches it again", segment(id))));
        }
        tracing::debug!("job {id} is watched anew: {broken}");
        tokio::time::sleep(PAUSE_BETWEEN_TRIES).await;
    }
}

#[derive(Default)]
struct Watched {
    job: Value,
    last_event: Option<String>,
    is_over: bool,
    bar: Option<Bar>,
}

impl Watched {
    /// Reads until the job is over, or answers with what broke the stream.
    async fn read(&mut self, events: &mut Events, heard: &mut Instant) -> Result<Failure, Failure> {
        loop {
            let broken = |why: &str| Failure::new(ErrorCode::HostConnect, why);
            let piece = match tokio::time::timeout(SILENCE_MAX, events.next()).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(failure)) => return Ok(failure),
                Err(_) => return Ok(broken("the coordinator is silent")),
            };
            match piece {
                Piece::End => return Ok(broken("the coordinator ended the stream")),
                Piece::Nothing => {}
                Piece::Event(event) => {
                    if let Some(id) = event.id {
                        self.last_event = Some(id);
                    }
                    match event.name.as_str() {
                        "end" => {
                            self.is_over = true;
                            return Ok(broken("the job is over"));
                        }
                        "progress" => self.take(&event.data)?,
                        _ => {}
                    }
                }
            }
            *heard = Instant::now();
        }
    }

    fn take(&mut self, data: &str) -> Result<(), Failure> {
        self.job = serde_json::from_str(data).map_err(|error| {
            Failure::new(ErrorCode::Protocol, format!("the coordinator's event is not understood: {error}"))
        })?;
        let bytes = &self.job["bytes"];
        let (Some(total), Some(done)) = (bytes["total"].as_u64(), bytes["done"].as_u64()) else {
            return Ok(());
        };
        if total == 0 {
            return Ok(());
        }
        let (job, bar) = (&self.job, &mut self.bar);
        bar.get_or_insert_with(|| Bar::new(&label(job), total)).set(done);
        Ok(())
    }

    fn end(self) -> Value {
        if let Some(bar) = self.bar {
            bar.finish();
        }
        self.job
    }
}

fn label(job: &Value) -> String {
    let words = [&job["kind"], &job["label"]].map(Value::as_str);
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A stream of server-sent events.
pub struct Events {
    response: Response,
    parser: Parser,
}

pub enum Piece {
    Event(Event),
    /// Bytes came, and no event is complete.
    Nothing,
    End,
}

impl Events {
    pub fn new(response: Response) -> Events {
        Events { response, parser: Parser::default() }
    }

    pub async fn next(&mut self) -> Result<Piece, Failure> {
        if let Some(event) = self.parser.event()? {
            return Ok(Piece::Event(event));
        }
        match self.response.chunk().await {
            Ok(Some(bytes)) => {
                self.parser.bytes.extend_from_slice(&bytes);
                Ok(self.parser.event()?.map_or(Piece::Nothing, Piece::Event))
            }
            Ok(None) => Ok(Piece::End),
            Err(error) => {
                Err(Failure::new(ErrorCode::HostConnect, super::client::causes("the stream broke", &error)))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: String,
}

/// Puts events together from the bytes of a stream.
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
}

impl Parser {
    /// The next event that is complete; comments are none.
    fn event(&mut self) -> Result<Option<Event>, Failure> {
        let strange = |why: &str| Failure::new(ErrorCode::Protocol, format!("the stream of events {why}"));
        while let Some(at) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..at + 2).collect();
            let block = String::from_utf8(block).map_err(|_| strange("is not text"))?;
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                return Ok(Some(Event { id: field("id: "), name, data }));
            }
        }
        if self.bytes.len() > EVENT_BYTES_MAX {
            return Err(strange("has no end of an event"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;

    #[test]
    fn events_are_put_together_from_whatever_pieces_come() {
        let text = b":\n\nid: 3-7\nevent: progress\ndata: {\"a\":1}\n\nid: 3-8\nevent: end\ndata: {}\n\n";
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for byte in text {
            parser.bytes.push(*byte);
            events.extend(parser.event().unwrap());
        }
        let event = |id: &str, name: &str, data: &str| Event {
            id: Some(id.to_owned()),
            name: name.to_owned(),
            data: data.to_owned(),
        };
        assert_eq!(events, [event("3-7", "progress", "{\"a\":1}"), event("3-8", "end", "{}")]);
        assert!(parser.bytes.is_empty());
    }

    #[test]
    fn who_stops_watching_is_told_how_to_end_the_job() {
        let failure = left_alone(Failure::new(ErrorCode::Term, "terminated by a signal"), "j");
        assert_eq!(failure.code.number(), 63);
        assert_eq!(failure.message, "terminated by a signal; job j goes on");
        assert_eq!(failure.hints, ["pgconvoy job cancel j ends it, pgconvoy job follow j watches it"]);
    }
}
