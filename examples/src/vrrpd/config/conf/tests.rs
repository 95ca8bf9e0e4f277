use super::*;

struct Shelf(Vec<(&'static str, &'static str)>);

impl Files for Shelf {
    fn find(&self, pattern: &Path) -> std::io::Result<Vec<PathBuf>> {
        let pattern = glob::Pattern::new(pattern.to_str().unwrap()).unwrap();
        Ok(self
            .0
            .iter()
            .map(|(file, _)| PathBuf::from(file))
            .filter(|file| pattern.matches_path(file))
            .collect())
    }

    fn read(&self, file: &Path) -> std::io::Result<String> {
        let found = self.0.iter().find(|(name, _)| Path::new(name) == file);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

/// Items as text: words with `·` between them, blocks in braces.
fn shown(items: &[Item]) -> String {
    let each = |item: &Item| {
        let block = item.block.as_ref().map(|block| format!("{{{}}}", shown(block))).unwrap_or_default();
        format!("{}{block}", item.words.join("·"))
    };
    items.iter().map(each).collect::<Vec<_>>().join(" ")
}

fn read_with(text: &str, files: Vec<(&'static str, &'static str)>) -> Result<String, String> {
    let mut findings = Findings::default();
    let items = parse(Path::new("/etc/k.conf"), text, &Shelf(files), &mut findings);
    findings.conclude(items).map(|(items, _)| shown(&items)).map_err(|problems| problems.to_string())
}

fn read(text: &str) -> String {
    read_with(text, Vec::new()).unwrap_or_else(|problems| panic!("{text}: {problems}"))
}

#[test]
fn words_quotes_comments_and_braces() {
    for (text, expected) in [
        ("a b # c\n! d\ne", "a·b e"),
        ("a {\nb 1\nc\n}\n", "a{b·1 c}"),
        ("a\n\n{\nb\n}\nc", "a{b} c"),
        ("a { b 1\nc }", "a{b·1 c}"),
        ("a{b}", "a{b}"),
        ("a {}", "a{}"),
        ("a \"b c\" d", "a·b c·d"),
        ("a x\"b ' c\"y", "a·xb ' cy"),
        ("a 'b # c' \"\"", "a·b # c·"),
        (r#"a "b\"\x41\101\t\\""#, "a·b\"AA\t\\"),
        ("a\r\nb\r\n", "a b"),
        ("pass ab${_HASH}c${_BANG}", "pass·ab#c!"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn parameters_are_replaced_where_they_are_used() {
    let nested = "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.1\n$SUB=10\n${BASE}.1";
    for (text, expected) in [
        (nested, "10.2.0.1 10.2.10.1"),
        ("$A=5\npriority $A\nx $AB $A.", "priority·5 x·$AB·$A."),
        ("$E=\na ${E}b", "a·b"),
        ("$I= \\\nv ${N} { \\\np 1 \\\n}\n$N=1\n$I\n$N=2\n$I", "v·1{p·1} v·2{p·1}"),
        ("x ${_PWD}/y", "x·/etc/y"),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn conditions_ask_for_the_machine_s_name() {
    let own = host_name();
    assert_eq!(read(&format!("@{own} a\n@^{own} b\n@no-such-machine c\n@^no-such-machine d")), "a d");
}

#[test]
fn includes_are_found_beside_the_file() {
    let files =
        vec![("/etc/d/1.conf", "b 1\n"), ("/etc/d/2.conf", "c {\ninclude 3.x\n}\n"), ("/etc/d/3.x", "d")];
    assert_eq!(read_with("a\ninclude d/*.conf\ne", files).as_deref(), Ok("a b·1 c{d} e"));
    let circle = read_with("include k.conf", vec![("/etc/k.conf", "include k.conf")]).unwrap_err();
    assert!(circle.contains("include each other too deep"), "{circle}");
}
