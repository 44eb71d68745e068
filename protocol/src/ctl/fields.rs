//! Fields that consist of several.

use super::wire::{DecodeError, Wire, from};

/// One end of a TCP connection: IPv6 address (IPv4 as v4-mapped), port and scope in host order.
/// A v4 connection and a v4-mapped one of a v6 socket are therefore the same connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    pub addr: [u8; 16],
    pub port: u16,
    pub zero: u16,
    pub scope: u32,
}

impl Endpoint {
    pub const fn v4(addr: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = addr;
        let addr = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
        Endpoint {
            addr,
            port,
            zero: 0,
            scope: 0,
        }
    }

    pub fn as_v4(&self) -> Option<[u8; 4]> {
        let (head, v4) = self.addr.split_at(12);
        (head == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).then(|| [v4[0], v4[1], v4[2], v4[3]])
    }

    pub fn to_socket_addr(&self) -> std::net::SocketAddr {
        match self.as_v4() {
            Some(v4) => (v4, self.port).into(),
            None => (self.addr, self.port).into(),
        }
    }
}

impl Wire for Endpoint {
    const SIZE: usize = 24;
    fn put(&self, out: &mut [u8]) {
        self.addr.put(out);
        self.port.put(from(out, 16));
        self.zero.put(from(out, 18));
        self.scope.put(from(out, 20));
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        let at = |i: usize| raw.get(i..).ok_or(DecodeError::Length);
        Ok(Endpoint {
            addr: Wire::get(raw)?,
            port: Wire::get(at(16)?)?,
            zero: Wire::get(at(18)?)?,
            scope: Wire::get(at(20)?)?,
        })
    }
}

/// Where a DMB lies in its link group's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DmbPlace {
    pub token: u64,
    /// Byte offset from the start of the arena; page aligned.
    pub offset: u64,
    /// Bytes, CDC header included: `2^(14 + code)`.
    pub len: u32,
    /// DMB element index in the link group, as in Accept and Confirm (one byte there).
    pub index: u32,
}

impl Wire for DmbPlace {
    const SIZE: usize = 24;
    fn put(&self, out: &mut [u8]) {
        self.token.put(out);
        self.offset.put(from(out, 8));
        self.len.put(from(out, 16));
        self.index.put(from(out, 20));
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        let at = |i: usize| raw.get(i..).ok_or(DecodeError::Length);
        Ok(DmbPlace {
            token: Wire::get(raw)?,
            offset: Wire::get(at(8)?)?,
            len: Wire::get(at(16)?)?,
            index: Wire::get(at(20)?)?,
        })
    }
}

/// How a program accelerates its connections, as far as its environment does not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// 0: no connection at all.
    pub accelerate: u8,
    /// Non-zero: claimed at the first byte.
    pub eager: u8,
    /// Non-zero: payload goes through a private sndbuf.
    pub copy: u8,
    pub zero: u8,
    /// A connection is claimed after so many changes between sending and receiving,
    pub exchanges: u32,
    /// or so many bytes.
    pub bytes: u64,
    /// Bytes wanted for RMBs; 0: from SO_RCVBUF, or the built-in size.
    pub rcvbuf: u32,
    /// Longest spin before a sleep.
    pub spin_us: u32,
}

impl Settings {
    /// What holds unless somebody says otherwise. An upgrade costs some hundred microseconds on both
    /// sides together, as much as a ring saves for a dozen exchanges or half a mebibyte: so a connection
    /// that ends soon after it has lost a tenth of its time, and one that ends before has lost nothing.
    pub const DEFAULT: Settings = Settings {
        accelerate: 1,
        eager: 0,
        copy: 0,
        zero: 0,
        exchanges: 12,
        bytes: 512 << 10,
        rcvbuf: 0,
        spin_us: 50,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Settings::DEFAULT
    }
}

impl Wire for Settings {
    const SIZE: usize = 24;
    fn put(&self, out: &mut [u8]) {
        [self.accelerate, self.eager, self.copy, self.zero].put(out);
        self.exchanges.put(&mut out[4..]);
        self.bytes.put(&mut out[8..]);
        self.rcvbuf.put(&mut out[16..]);
        self.spin_us.put(&mut out[20..]);
    }
    fn get(raw: &[u8]) -> Result<Self, DecodeError> {
        let at = |i: usize| raw.get(i..).ok_or(DecodeError::Length);
        let [accelerate, eager, copy, zero] = Wire::get(raw)?;
        Ok(Settings {
            accelerate,
            eager,
            copy,
            zero,
            exchanges: Wire::get(at(4)?)?,
            bytes: Wire::get(at(8)?)?,
            rcvbuf: Wire::get(at(16)?)?,
            spin_us: Wire::get(at(20)?)?,
        })
    }
}
