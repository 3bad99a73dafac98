//! SFTP version 3 on the wire (draft-ietf-secsh-filexfer-02), with the extensions of OpenSSH's PROTOCOL, section 4.
//!
//! Only what whole objects need. Names and handles are bytes: a handle of OpenSSH is a binary number, which a text would
//! not carry.
//!
//! Invariant: decoding any bytes ends in a value or an error, and allocates no more than the packet is long.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A packet of a server that is longer is none: OpenSSH's have at most 256 KiB.
const PACKET_BYTES_MAX: usize = 1 << 20;
/// Length, kind, id, handle (4 bytes with OpenSSH), offset, length of the data.
pub(crate) const WRITE_OVERHEAD_BYTES: usize = 4 + 1 + 4 + 8 + 8 + 4;

pub(crate) const VERSION: u32 = 3;

const INIT: u8 = 1;
const VERSION_REPLY: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const STAT: u8 = 17;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 200;
const EXTENDED_REPLY: u8 = 201;

/// How a file is opened.
pub(crate) mod flags {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const CREATE: u32 = 8;
    pub(crate) const EXCLUSIVE: u32 = 32;
}

/// Status codes; those beyond 8 are of later versions, which some servers send all the same.
pub(crate) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const NO_CONNECTION: u32 = 6;
    pub(crate) const CONNECTION_LOST: u32 = 7;
    pub(crate) const OP_UNSUPPORTED: u32 = 8;
    pub(crate) const FILE_ALREADY_EXISTS: u32 = 11;
    pub(crate) const WRITE_PROTECT: u32 = 12;
    pub(crate) const NO_SPACE_ON_FILESYSTEM: u32 = 14;
    pub(crate) const QUOTA_EXCEEDED: u32 = 15;
}

const ATTR_SIZE: u32 = 1;
const ATTR_UIDGID: u32 = 2;
const ATTR_PERMISSIONS: u32 = 4;
const ATTR_ACMODTIME: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// A packet from the server that does not follow the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something that is not SFTP: {0}")]
pub(crate) struct WireError(pub(crate) &'static str);

/// A request that has everything but its number.
pub(crate) struct Request {
    packet: BytesMut,
    /// Where the length of the data of a write stands.
    data_length_at: Option<usize>,
}

impl Request {
    fn new(kind: u8, room: usize) -> Self {
        let mut packet = BytesMut::with_capacity(room + 64);
        packet.put_u32(0);
        packet.put_u8(kind);
        packet.put_u32(0);
        Request { packet, data_length_at: None }
    }

    fn text(mut self, bytes: &[u8]) -> Self {
        self.packet.put_u32(length(bytes.len()));
        self.packet.put_slice(bytes);
        self
    }

    fn number(mut self, number: u32) -> Self {
        self.packet.put_u32(number);
        self
    }

    fn long(mut self, number: u64) -> Self {
        self.packet.put_u64(number);
        self
    }

    /// Attributes that set the mode, or none.
    fn mode(self, mode: Option<u32>) -> Self {
        match mode {
            Some(mode) => self.number(ATTR_PERMISSIONS).number(mode),
            None => self.number(0),
        }
    }

    /// More data of a write.
    pub(crate) fn append(&mut self, data: &[u8]) {
        self.packet.put_slice(data);
    }

    /// The packet as it is sent.
    pub(crate) fn seal(mut self, id: u32) -> Bytes {
        let all = self.packet.len();
        if let Some(at) = self.data_length_at {
            self.packet[at..at + 4].copy_from_slice(&length(all - at - 4).to_be_bytes());
        }
        self.packet[..4].copy_from_slice(&length(all - 4).to_be_bytes());
        self.packet[5..9].copy_from_slice(&id.to_be_bytes());
        self.packet.freeze()
    }
}

/// Paths, handles and pieces are shorter by their own limits.
fn length(length: usize) -> u32 {
    u32::try_from(length).expect("a packet is shorter than 4 GiB")
}

/// The first packet of a session, which has no number.
pub(crate) fn init() -> Bytes {
    let mut packet = BytesMut::with_capacity(9);
    packet.put_u32(5);
    packet.put_u8(INIT);
    packet.put_u32(VERSION);
    packet.freeze()
}

pub(crate) fn open(path: &str, flags: u32, mode: Option<u32>) -> Request {
    Request::new(OPEN, path.len()).text(path.as_bytes()).number(flags).mode(mode)
}

pub(crate) fn close(handle: &[u8]) -> Request {
    Request::new(CLOSE, handle.len()).text(handle)
}

pub(crate) fn read(handle: &[u8], offset: u64, length: u32) -> Request {
    Request::new(READ, handle.len()).text(handle).long(offset).number(length)
}

/// Its data are appended.
pub(crate) fn write(handle: &[u8], offset: u64, room: usize) -> Request {
    let mut request = Request::new(WRITE, handle.len() + room).text(handle).long(offset);
    request.data_length_at = Some(request.packet.len());
    request.number(0)
}

pub(crate) fn lstat(path: &str) -> Request {
    Request::new(LSTAT, path.len()).text(path.as_bytes())
}

/// Follows links.
pub(crate) fn stat(path: &str) -> Request {
    Request::new(STAT, path.len()).text(path.as_bytes())
}

pub(crate) fn fstat(handle: &[u8]) -> Request {
    Request::new(FSTAT, handle.len()).text(handle)
}

pub(crate) fn opendir(path: &str) -> Request {
    Request::new(OPENDIR, path.len()).text(path.as_bytes())
}

pub(crate) fn readdir(handle: &[u8]) -> Request {
    Request::new(READDIR, handle.len()).text(handle)
}

pub(crate) fn remove(path: &str) -> Request {
    Request::new(REMOVE, path.len()).text(path.as_bytes())
}

pub(crate) fn mkdir(path: &str, mode: u32) -> Request {
    Request::new(MKDIR, path.len()).text(path.as_bytes()).mode(Some(mode))
}

pub(crate) fn rmdir(path: &str) -> Request {
    Request::new(RMDIR, path.len()).text(path.as_bytes())
}

fn extended(name: &str) -> Request {
    Request::new(EXTENDED, name.len()).text(name.as_bytes())
}

/// link(2): fails if the new name exists.
pub(crate) fn hardlink(old: &str, new: &str) -> Request {
    extended(extension::HARDLINK).text(old.as_bytes()).text(new.as_bytes())
}

/// rename(2): replaces.
pub(crate) fn posix_rename(old: &str, new: &str) -> Request {
    extended(extension::POSIX_RENAME).text(old.as_bytes()).text(new.as_bytes())
}

pub(crate) fn fsync(handle: &[u8]) -> Request {
    extended(extension::FSYNC).text(handle)
}

pub(crate) fn statvfs(path: &str) -> Request {
    extended(extension::STATVFS).text(path.as_bytes())
}

pub(crate) fn limits() -> Request {
    extended(extension::LIMITS)
}

pub(crate) mod extension {
    pub(crate) const HARDLINK: &str = "hardlink@openssh.com";
    pub(crate) const POSIX_RENAME: &str = "posix-rename@openssh.com";
    pub(crate) const FSYNC: &str = "fsync@openssh.com";
    pub(crate) const STATVFS: &str = "statvfs@openssh.com";
    pub(crate) const LIMITS: &str = "limits@openssh.com";
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    pub(crate) permissions: Option<u32>,
    /// Seconds since 1970.
    pub(crate) modified: Option<u32>,
}

impl Attributes {
    /// `None`: the server did not say.
    pub(crate) fn kind(self) -> Option<Kind> {
        Some(match self.permissions? & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Link,
            0 => return None,
            _ => Kind::Other,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Bytes,
    pub(crate) attributes: Attributes,
}

/// What statvfs(2) tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) blocks_available: u64,
    pub(crate) files: u64,
    pub(crate) files_available: u64,
    pub(crate) id: u64,
    pub(crate) is_read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(Status),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Entry>),
    Attributes(Attributes),
    Extended(Bytes),
}

const SHORT: WireError = WireError("a packet ends too early");

fn take_u8(packet: &mut Bytes) -> Result<u8, WireError> {
    packet.try_get_u8().map_err(|_| SHORT)
}

fn take_u32(packet: &mut Bytes) -> Result<u32, WireError> {
    packet.try_get_u32().map_err(|_| SHORT)
}

fn take_u64(packet: &mut Bytes) -> Result<u64, WireError> {
    packet.try_get_u64().map_err(|_| SHORT)
}

fn take_text(packet: &mut Bytes) -> Result<Bytes, WireError> {
    let length = usize::try_from(take_u32(packet)?).map_err(|_| SHORT)?;
    if length > packet.len() { Err(SHORT) } else { Ok(packet.split_to(length)) }
}

fn lossy(text: &Bytes) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn take_attributes(packet: &mut Bytes) -> Result<Attributes, WireError> {
    let present = take_u32(packet)?;
    let mut found = Attributes::default();
    if present & ATTR_SIZE != 0 {
        found.size = Some(take_u64(packet)?);
    }
    if present & ATTR_UIDGID != 0 {
        take_u64(packet)?;
    }
    if present & ATTR_PERMISSIONS != 0 {
        found.permissions = Some(take_u32(packet)?);
    }
    if present & ATTR_ACMODTIME != 0 {
        take_u32(packet)?;
        found.modified = Some(take_u32(packet)?);
    }
    if present & ATTR_EXTENDED != 0 {
        for _ in 0..take_u32(packet)? {
            take_text(packet)?;
            take_text(packet)?;
        }
    }
    Ok(found)
}

fn take_names(packet: &mut Bytes) -> Result<Vec<Entry>, WireError> {
    let mut entries = Vec::new();
    for _ in 0..take_u32(packet)? {
        let name = take_text(packet)?;
        let _as_ls_shows_it = take_text(packet)?;
        entries.push(Entry { name, attributes: take_attributes(packet)? });
    }
    Ok(entries)
}

/// The number of the request that it answers, and the answer.
pub(crate) fn decode(mut packet: Bytes) -> Result<(u32, Reply), WireError> {
    let kind = take_u8(&mut packet)?;
    let id = take_u32(&mut packet)?;
    let reply = match kind {
        STATUS => {
            let code = take_u32(&mut packet)?;
            // Old servers leave the text out.
            let message = take_text(&mut packet).map(|text| lossy(&text)).unwrap_or_default();
            Reply::Status(Status { code, message })
        }
        HANDLE => Reply::Handle(take_text(&mut packet)?),
        DATA => Reply::Data(take_text(&mut packet)?),
        NAME => Reply::Names(take_names(&mut packet)?),
        ATTRS => Reply::Attributes(take_attributes(&mut packet)?),
        EXTENDED_REPLY => Reply::Extended(packet),
        _ => return Err(WireError("a packet of an unknown kind")),
    };
    Ok((id, reply))
}

/// The server's first packet: its version, and its extensions with theirs.
pub(crate) fn decode_version(mut packet: Bytes) -> Result<(u32, Vec<(String, String)>), WireError> {
    if take_u8(&mut packet)? != VERSION_REPLY {
        return Err(WireError("its first packet tells no version"));
    }
    let version = take_u32(&mut packet)?;
    let mut extensions = Vec::new();
    while !packet.is_empty() {
        extensions.push((lossy(&take_text(&mut packet)?), lossy(&take_text(&mut packet)?)));
    }
    Ok((version, extensions))
}

pub(crate) fn decode_file_system(mut reply: Bytes) -> Result<FileSystem, WireError> {
    const READ_ONLY: u64 = 1;
    let mut fields = [0; 11];
    for field in &mut fields {
        *field = take_u64(&mut reply)?;
    }
    let [_, block_bytes, blocks, _, blocks_available, files, _, files_available, id, flag, _] = fields;
    let is_read_only = flag & READ_ONLY != 0;
    Ok(FileSystem { block_bytes, blocks, blocks_available, files, files_available, id, is_read_only })
}

/// Largest packet, read and write that the server takes; 0: it does not say.
pub(crate) fn decode_limits(mut reply: Bytes) -> Result<[u64; 3], WireError> {
    Ok([take_u64(&mut reply)?, take_u64(&mut reply)?, take_u64(&mut reply)?])
}

/// Packets out of a stream of bytes.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    buffer: BytesMut,
}

impl Assembler {
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole packet, without its length.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| SHORT)?;
        if length > PACKET_BYTES_MAX {
            return Err(WireError("a packet longer than any, as if a login script had printed something"));
        }
        if self.buffer.len() < 4 + length {
            self.buffer.reserve(4 + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests;
