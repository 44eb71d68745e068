//! The guides and the README, as they are written: every `sh` block is run in order, by an ordinary
//! user on a copy of this machine with the package installed. A `text` block is what the block before
//! it prints (numbers may differ). In the end the daemon is asked what carried the bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tests::{Lab, artefacts, full, netns, package, plain_only};

#[derive(Debug)]
struct Block {
    language: String,
    text: String,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut all: Vec<Block> = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        match line.strip_prefix("```") {
            Some(language) if !inside => {
                let (language, text) = (language.to_owned(), String::new());
                all.push(Block { language, text });
                inside = true;
            }
            Some(_) => inside = false,
            None if inside => {
                let last = all.last_mut().expect("a block");
                last.text += line;
                last.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!inside, "a block without an end");
    all
}

/// A person types the next command when the server of the last one is up.
const PATIENT: &str = r#"set -eu
started=0 listening=0
listens() { ss -Hltn | wc -l; }
settle() {
    local now i
    now=$(jobs -pr | wc -l)
    if [ "$now" -gt "$started" ]; then
        for ((i = 0; i < 400; i++)); do
            [ "$(listens)" -le "$listening" ] || break
            sleep 0.05
        done
    fi
    started=$now listening=$(listens)
}
trap settle DEBUG
"#;

/// Numbers and runs of blanks count as equal.
fn form(line: &str) -> String {
    let mut out = String::new();
    for c in line.trim().chars() {
        let c = match c {
            '0'..='9' => '#',
            c if c.is_whitespace() => ' ',
            c => c,
        };
        if !(matches!(c, '#' | ' ') && out.ends_with(c)) {
            out.push(c);
        }
    }
    out
}

/// The lines of `wanted`, in this order, among those of `got`.
#[track_caller]
fn expect(guide: &str, wanted: &str, got: &str) {
    let mut lines = got.lines().map(form);
    for line in wanted.lines().filter(|l| l.trim() != "...") {
        let found = lines.any(|l| l == form(line));
        assert!(found, "{guide}: no line {line:?} in\n{got}");
    }
}

/// The packages that a guide names in its third line.
fn packages(guide: &str) -> Vec<&str> {
    let line = guide.lines().nth(2).unwrap_or_default();
    let named = line.strip_prefix("Debian packages: ");
    let named = named.unwrap_or_else(|| panic!("no packages in {line:?}"));
    let words = named.trim_end_matches('.').split(", ");
    words.map(|word| word.trim_matches('`')).collect()
}

/// A Debian 12 with nothing but what the guides name; made anew when they name something else.
#[track_caller]
fn clean_root() -> &'static PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // What the README names, and `ss` for the patience above.
        let mut all = BTreeSet::from(["redis-server", "iproute2"].map(String::from));
        for guide in GUIDES {
            let page = artefacts::workspace().join(format!("docs/guides/{guide}.md"));
            let page = fs::read_to_string(page).expect("a guide");
            all.extend(packages(&page).into_iter().map(String::from));
        }
        let all = all.into_iter().collect::<Vec<_>>().join(",");
        let root = artefacts::target().join("tests/clean-debian");
        let list = root.with_extension("list");
        if fs::read_to_string(&list).ok().as_deref() != Some(&all) {
            let _ = fs::remove_dir_all(&root);
            let lab = Lab::without_daemon();
            lab.plain("debootstrap")
                .args(["--variant=minbase", &format!("--include={all}"), "bookworm"])
                .arg(&root)
                .limit(Duration::from_secs(1800))
                .finish()
                .ok();
            fs::write(list, all).expect("a list");
        }
        root
    })
}

const GUIDES: [&str; 8] = [
    "operating",
    "redis",
    "nginx",
    "postgresql",
    "java",
    "python",
    "sidecar",
    "containers",
];

/// Each guide says what has to be installed, by names that Debian knows.
#[test]
fn packages_are_named() {
    for guide in GUIDES {
        let page = artefacts::workspace().join(format!("docs/guides/{guide}.md"));
        assert!(!packages(&fs::read_to_string(page).expect("a guide")).is_empty());
    }
}

/// Runs a page on a copy of this machine, with `--full` on a clean Debian; gives the bytes that went
/// over SMC.
#[track_caller]
fn follow(page: &str, user: Option<&str>) {
    follow_in(page, user, false);
}

/// Where `booted`, under a systemd that has booted there.
#[track_caller]
fn follow_in(page: &str, user: Option<&str>, booted: bool) {
    if !netns::possible() || plain_only() {
        return;
    }
    let path = artefacts::workspace().join(page);
    let blocks = blocks(&fs::read_to_string(&path).expect("a guide"));
    let mut script = PATIENT.to_owned();
    let mut wanted = Vec::new();
    for block in &blocks {
        match block.language.as_str() {
            "sh" => {
                script += &format!("echo '@@ {}'\n{}", wanted.len(), block.text);
                wanted.push(None);
            }
            "text" => {
                // What stands before the first command is no output.
                if let Some(last @ None) = wanted.last_mut() {
                    *last = Some(&block.text);
                }
            }
            _ => {}
        }
    }
    script += "trap - DEBUG\necho '@@ end'\nsmclo stats --json\n";
    let lab = Lab::without_daemon();
    let file = lab.dir().join("work/script");
    fs::create_dir(lab.dir().join("work")).expect("a directory");
    fs::write(&file, script).expect("the script");
    let mut run = lab
        .plain(artefacts::workspace().join("tests/box"))
        .arg(package::build())
        .args(["bash", "/given/script"])
        .env("BOX_DIR", lab.dir().join("work"))
        .limit(Duration::from_secs(240));
    if let Some(user) = user {
        run = run.env("BOX_USER", user);
    }
    if booted {
        run = run.env("BOX_SYSTEMD", "yes");
    }
    if full() {
        run = run.env("BOX_ROOT", clean_root());
    }
    let outcome = run.finish();
    assert!(outcome.success(), "{page}: {outcome}");
    let parts: Vec<&str> = outcome.stdout.split("@@ ").collect();
    for (part, wanted) in parts[1..].iter().zip(&wanted) {
        if let Some(wanted) = wanted {
            expect(page, wanted, part);
        }
    }
    let stats = parts.last().and_then(|last| last.split_once('\n'));
    let stats = stats.expect("the totals").1;
    let stats: serde_json::Value = serde_json::from_str(stats).expect("JSON");
    let bytes = stats["smc_bytes"].as_u64().unwrap_or(0);
    assert!(bytes > 100_000, "{page}: {bytes} bytes over SMC: {stats}");
}

const USER: Option<&str> = Some("someone");

#[test]
fn readme() {
    follow("README.md", USER);
}

#[test]
fn redis() {
    follow("docs/guides/redis.md", USER);
}

#[test]
fn nginx() {
    follow("docs/guides/nginx.md", USER);
}

#[test]
fn postgresql() {
    follow("docs/guides/postgresql.md", USER);
}

#[test]
fn java() {
    follow("docs/guides/java.md", USER);
}

#[test]
fn python() {
    follow("docs/guides/python.md", USER);
}

#[test]
fn sidecar() {
    follow("docs/guides/sidecar.md", USER);
}

#[test]
fn containers() {
    follow("docs/guides/containers.md", None);
}

#[test]
fn operating() {
    if netns::can_boot() {
        follow_in("docs/guides/operating.md", None, true);
    }
}

/// The picture shows the numbers of the table.
#[test]
fn picture() {
    let lab = Lab::without_daemon();
    let script = artefacts::workspace().join("scripts/picture");
    lab.plain(script).arg("--check").finish().ok();
}

/// Every option of the daemon and every variable that a source names is in the table of settings.
#[test]
fn every_knob_is_in_the_table() {
    let page = artefacts::workspace().join("docs/settings.md");
    let page = fs::read_to_string(page).expect("the table");
    let lab = Lab::without_daemon();
    let help = lab.plain(artefacts::path("smclod")).arg("--help");
    let help = help.finish().ok();
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let mut knobs: BTreeSet<String> = help
        .lines()
        .filter_map(|line| line.split_once("--"))
        .map(|(_, name)| format!("--{}", name.split(ends).next().unwrap_or_default()))
        .filter(|name| !matches!(name.as_str(), "--help" | "--version"))
        .collect();
    assert!(knobs.len() > 10, "{help}");
    for dir in ["shim/src", "daemon/src", "daemon/src/tool"] {
        let all = fs::read_dir(artefacts::workspace().join(dir)).expect("sources");
        for entry in all {
            let text = fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
            for quoted in text.split('"').filter(|t| t.starts_with("SMC")) {
                let name = quoted.split(|c| c == '=' || ends(c)).next();
                let name = name.unwrap_or_default();
                if name.starts_with("SMC_") || name.starts_with("SMCLO_") {
                    knobs.insert(name.trim_end_matches('_').into());
                }
            }
        }
    }
    assert!(knobs.contains("SMCLO_MODE"), "{knobs:?}");
    for knob in &knobs {
        assert!(page.contains(knob.as_str()), "{knob} is not in the table");
    }
}

/// What the pages point to is there.
#[test]
fn links() {
    let root = artefacts::workspace();
    let mut pages = vec![root.join("README.md")];
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        pages.push(root.join(name));
    }
    for dir in ["docs", "docs/guides", "docs/internals"] {
        let all = fs::read_dir(root.join(dir)).expect("the documents");
        let all = all.map(|entry| entry.expect("an entry").path());
        pages.extend(all.filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    let mut seen = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        for (at, _) in text.match_indices("](") {
            let link = text[at + 2..].split(')').next().unwrap_or_default();
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = page.parent().expect("a directory").join(path);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            seen += 1;
        }
    }
    assert!(seen > 10);
}

/// Every page that the list names is there, and every page is tried.
#[test]
fn no_page_is_left_out() {
    let dir = artefacts::workspace().join("docs/guides");
    let list = fs::read_to_string(dir.join("README.md")).expect("the list");
    let own = include_str!("guides.rs");
    for entry in fs::read_dir(&dir).expect("the guides") {
        let path: PathBuf = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == "README.md" {
            continue;
        }
        assert!(list.contains(&format!("({name})")), "{name} is not listed");
        assert!(
            own.contains(&format!("guides/{name}\"")),
            "{name} is not tried"
        );
    }
}
