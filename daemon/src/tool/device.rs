//! `smclo device`, `linkgroups`, `info`, `ueid` and `seid`.

use crate::report::{Device, Eids, Info, LinkGroup};
use crate::tool::table::{Cell, Table, WARN, abbreviated, pairs};

fn bytes(n: u64) -> String {
    if n < 1000 {
        n.to_string()
    } else {
        format!("{n} ({})", abbreviated(n))
    }
}

pub fn device(d: &Device) -> String {
    let yes = |b: bool| if b { "yes" } else { "no" }.to_string();
    pairs([
        ("Device", d.name.clone()),
        ("GID", d.gid.clone()),
        ("CHID", d.chid.clone()),
        ("SMC-Dv2", yes(d.smcd_v2)),
        ("No-copy DMBs", yes(d.nocopy)),
        ("DMBs", format!("{} of {}", d.dmbs, d.max_dmbs)),
        ("DMB bytes", bytes(d.dmb_bytes)),
        ("DMBs per user", d.max_dmbs_per_uid.to_string()),
        ("Bytes per user", bytes(d.max_bytes_per_uid)),
        (
            "Claims per user and second",
            d.max_claims_per_second.to_string(),
        ),
        ("Pairs", d.pairs.to_string()),
        ("Link groups", d.link_groups.to_string()),
    ])
}

pub fn link_groups(all: &[LinkGroup]) -> String {
    let mut table = Table::headed([
        "LG-ID",
        "UID",
        "#Conns",
        "#DMBs",
        "Pooled",
        "DMB-Bytes",
        "State",
        "Processes",
    ]);
    for g in all {
        table.row(vec![
            Cell::new(&g.lgr),
            Cell::number(users(g)),
            Cell::number(g.pairs),
            Cell::number(g.dmbs),
            Cell::number(g.dmbs_pooled),
            Cell::number(g.dmb_bytes),
            if g.dying {
                Cell::new(state(g)).style(WARN)
            } else {
                state(g).into()
            },
            [end(g, 0), end(g, 1)].join(" ").into(),
        ]);
    }
    table.finish()
}

/// As `smcd -d linkgroup`, and what only we have.
pub fn link_group_details(all: &[LinkGroup]) -> String {
    let blocks = all.iter().map(|g| {
        pairs([
            ("LG-ID", g.lgr.clone()),
            ("VLAN", format!("{:#x}", g.vlan)),
            ("PNET-ID", or_none(&g.pnet_id)),
            ("Version", g.version.to_string()),
            ("Peer-Rel", g.peer_release.to_string()),
            ("Peer-Host", g.peer_host.clone()),
            ("Peer-OS", g.peer_os.clone()),
            ("EID", g.eid.clone()),
            ("#Conns", g.pairs.to_string()),
            ("Sndbuf", bytes(g.sndbuf_bytes)),
            ("DMB", bytes(g.dmb_bytes)),
            (
                "#DMBs",
                format!("{}, {} of them pooled", g.dmbs, g.dmbs_pooled),
            ),
            ("Arena", bytes(g.arena_bytes)),
            ("State", state(g).into()),
            ("UID", users(g)),
            ("Processes", [end(g, 0), end(g, 1)].join(" ")),
        ])
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none" } else { text }.into()
}

/// Mostly one.
fn users(g: &LinkGroup) -> String {
    match g.uids {
        [one, other] if one != other => format!("{one},{other}"),
        [one, _] => one.to_string(),
    }
}

fn state(g: &LinkGroup) -> &'static str {
    if g.dying { "ending" } else { "active" }
}

fn end(g: &LinkGroup, i: usize) -> String {
    match g.pids[i] {
        0 => "(gone)".into(),
        pid => format!("{}/{pid}", g.programs[i]),
    }
}

pub fn seid(e: &Eids) -> String {
    let state = if e.seid_enabled {
        "enabled"
    } else {
        "disabled"
    };
    format!("{} [{state}]\n", e.seid)
}

pub fn ueids(e: &Eids) -> String {
    e.ueids.iter().map(|eid| format!("{eid}\n")).collect()
}

pub fn info(i: &Info) -> String {
    pairs([
        ("smclod version", i.version.clone()),
        ("Protocol version", i.protocol_version.to_string()),
        ("SMC version", i.smc_version.clone()),
        ("Process", format!("{} (uid {})", i.pid, i.uid)),
        ("Socket", i.socket.clone()),
        ("GID", i.gid.clone()),
        ("CHID", i.chid.clone()),
        ("SEID", seid(&i.eids).trim_end().into()),
        ("UEIDs", i.eids.ueids.join(", ")),
        ("Up for", format!("{} s", i.uptime_seconds)),
        ("Client processes", i.clients.to_string()),
        ("Sessions", i.sessions.to_string()),
        ("Pairs made", i.pairs_made.to_string()),
        ("Claims refused", i.claims_refused.to_string()),
        ("Claims unanswered", i.claims_unanswered.to_string()),
        ("Protocol errors", i.protocol_errors.to_string()),
        ("Refused: another version", i.other_versions.to_string()),
    ])
}
