//! The dashboard: pages for people, on top of what the API reads. Rendered here, kept up to date by one small script of ours.
//!
//! Code map: `pages` is the table of paths; `door` settles who asks and what a browser may do, `session` is the cookie and the proof of a form, `login` the way in;
//! `fleet_page` and `job_page` are what is shown, each as a view (values, made by a pure function) and as markup; `frame` is what all
//! pages have around them, `words` how figures are told, `assets` what a browser fetches beside them. `watching` and `streams` keep
//! open pages up to date; `map` is how units travel there.
//!
//! Invariants
//! 1. Everything that comes from anywhere is text: markup is made by `maud`, which escapes, and the script sets what was made here.
//! 2. No page needs anything of another host, a script or style of its own, or a browser's trust: the policy in `door` forbids it.
//! 3. Without the script each page tells and does the same; it only stands still.
//! 4. A form does what the bearer's role allows, and only with a proof that one of our pages made it.
//!
//! Failure story: a coordinator that follows passes pages on to the leader, as it does with the API. While nobody leads, a page says so
//! and asks again. A stream that ends is opened anew by the page; what it shows meanwhile says how old it is.

mod assets;
mod door;
mod fleet_page;
mod frame;
mod job_page;
mod login;
mod map;
mod pages;
mod session;
mod streams;
pub(crate) mod watching;
mod words;

pub(crate) use door::policy;
pub(crate) use pages::pages;
