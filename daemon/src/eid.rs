//! Enterprise ids: the system's (SEID) and the user's (UEIDs), with the kernel's rules.

use nix::errno::Errno;
use protocol::ctl::MAX_UEIDS;
use protocol::ids::{DEFAULT_UEID, Eid};

/// The SEID of a host without ISM hardware, as in the RFC of the loopback device.
pub const SEID: Eid = *b"IBM-DEF-ISMSEID00000000000000000";

/// Which EIDs take part in the match with a peer.
#[derive(Clone, Debug)]
pub struct Eids {
    pub seid_on: bool,
    ueids: Vec<Eid>,
}

impl Eids {
    /// An empty list stands for [`DEFAULT_UEID`].
    pub fn new(ueids: &[Eid], seid_on: bool) -> Result<Self, Errno> {
        let mut eids = Eids {
            seid_on,
            ueids: Vec::new(),
        };
        for eid in ueids {
            eids.add(*eid)?;
        }
        if eids.ueids.is_empty() {
            eids.ueids.push(DEFAULT_UEID);
        }
        Ok(eids)
    }

    pub fn ueids(&self) -> &[Eid] {
        &self.ueids
    }

    /// Count and padded array, as the messages carry them.
    pub fn wire(&self) -> (u8, [Eid; MAX_UEIDS]) {
        let mut all = [Eid::default(); MAX_UEIDS];
        all[..self.ueids.len()].copy_from_slice(&self.ueids);
        (self.ueids.len() as u8, all)
    }

    pub fn add(&mut self, eid: Eid) -> Result<(), Errno> {
        if !valid(&eid) {
            return Err(Errno::EINVAL);
        }
        if self.ueids.len() == MAX_UEIDS {
            return Err(Errno::ERANGE);
        }
        if self.ueids.contains(&eid) {
            return Err(Errno::EEXIST);
        }
        self.ueids.push(eid);
        Ok(())
    }

    /// `EAGAIN` is information, as in the kernel: the last UEID went, so the SEID is on again.
    pub fn del(&mut self, eid: &Eid) -> Result<(), Errno> {
        let at = self.ueids.iter().position(|e| e == eid);
        self.ueids.remove(at.ok_or(Errno::ENOENT)?);
        if self.ueids.is_empty() && !self.seid_on {
            self.seid_on = true;
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }

    /// All UEIDs go; `EAGAIN` as in [`Eids::del`].
    pub fn flush(&mut self) -> Result<(), Errno> {
        self.ueids.clear();
        if self.seid_on {
            return Ok(());
        }
        self.seid_on = true;
        Err(Errno::EAGAIN)
    }

    /// The one by which two ends with these EIDs match.
    pub fn matching(&self) -> Eid {
        let ueid = self.ueids.first().copied();
        ueid.filter(|_| !self.seid_on).unwrap_or(SEID)
    }

    pub fn enable_seid(&mut self) {
        self.seid_on = true;
    }

    /// `ENOENT` when no UEID would remain to match by.
    pub fn disable_seid(&mut self) -> Result<(), Errno> {
        if self.ueids.is_empty() {
            return Err(Errno::ENOENT);
        }
        self.seid_on = false;
        Ok(())
    }
}

/// Letters A-Z, digits, `.` and `-`; starts with a letter or digit; blanks only at the end; no
/// two dots in a row (a rule of smc-tools).
fn valid(eid: &Eid) -> bool {
    let text = eid.trim_ascii_end();
    let first = text.first();
    first.is_some_and(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        && text
            .iter()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || b".-".contains(c))
        && !text.windows(2).any(|two| two == b"..")
        && eid[text.len()..].iter().all(|c| *c == b' ')
}

/// Reads an EID as a person writes it; shorter ones are padded with blanks.
pub fn parse(text: &str) -> Result<Eid, String> {
    let mut eid = [b' '; 32];
    let fits = eid.get_mut(..text.len());
    fits.ok_or("an EID has at most 32 characters")?
        .copy_from_slice(text.as_bytes());
    if valid(&eid) {
        Ok(eid)
    } else {
        Err(
            "an EID consists of A-Z, 0-9, '.' and '-', begins with a letter or digit \
             and has no two dots in a row"
                .into(),
        )
    }
}

/// Without the padding.
pub fn text(eid: &Eid) -> String {
    String::from_utf8_lossy(eid.trim_ascii_end()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert!(valid(&DEFAULT_UEID) && valid(&SEID));
        assert!(SEID.starts_with(b"IBM-DEF-ISMSEID"));
        for bad in ["", ".A", "-A", "a", "A B", "A..B", "A_B", &"A".repeat(33)] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(text(&parse("A.B-1").unwrap()), "A.B-1");
    }

    #[test]
    fn table_has_the_kernels_rules() {
        let mut eids = Eids::new(&[], false).unwrap();
        assert_eq!(eids.ueids(), &[DEFAULT_UEID]);
        assert_eq!(eids.del(&DEFAULT_UEID), Err(Errno::EAGAIN));
        assert!(eids.seid_on);
        assert_eq!(eids.disable_seid(), Err(Errno::ENOENT));
        for name in ["A", "B", "C", "D"] {
            eids.add(parse(name).unwrap()).unwrap();
        }
        // Fullness is tested before duplicates.
        assert_eq!(eids.add(parse("A").unwrap()), Err(Errno::ERANGE));
        eids.del(&parse("D").unwrap()).unwrap();
        assert_eq!(eids.add(parse("A").unwrap()), Err(Errno::EEXIST));
        assert_eq!(
            eids.add(*b"a                               "),
            Err(Errno::EINVAL)
        );
        assert_eq!(eids.del(&parse("D").unwrap()), Err(Errno::ENOENT));
        eids.disable_seid().unwrap();
        assert_eq!(eids.wire().0, 3);
        assert_eq!(text(&eids.matching()), "A");
        assert_eq!(eids.flush(), Err(Errno::EAGAIN));
        assert_eq!((eids.wire().0, eids.seid_on), (0, true));
        assert_eq!((eids.matching(), eids.flush()), (SEID, Ok(())));
    }
}
