//! Forms that a browser posts with a signed policy.

use crate::content::{content, etag};
use crate::form::Form;
use crate::world::{Key, World};

fn world() -> World {
    let world = World::new();
    world.s3().create_bucket("forms");
    world
}

#[test]
fn a_form_with_a_policy_stores_its_file() {
    let world = world();
    let s3 = world.s3();
    for size in [0, 100, 300_000] {
        let body = content("form", 1, size);
        let got = Form::new("forms", "a b/ü", body.clone()).send(&s3).expect(204);
        assert_eq!(got.must("etag"), etag(&body));
        let place = format!("http://{}/forms/a%20b/%C3%BC", s3.addr);
        assert_eq!(got.must("location"), place);
        assert!(s3.read("forms", "a b/ü") == body);
    }
    let mut form = Form::new("forms", "typed", b"x".to_vec());
    form.fields.push(("Content-Type", "text/x-form"));
    form.fields.push(("x-amz-meta-a", "b"));
    form.fields.push(("success_action_status", "201"));
    form.conditions.push("[\"starts-with\",\"$Content-Type\",\"text/\"]".into());
    form.conditions.push("{\"x-amz-meta-a\":\"b\"}".into());
    form.conditions.push("{\"success_action_status\":\"201\"}".into());
    let got = form.send(&s3).expect(201);
    assert_eq!(got.xml("Key").as_deref(), Some("typed"), "{}", got.short());
    let head = s3.head("forms", "typed").send().expect(200);
    assert_eq!((head.must("content-type"), head.must("x-amz-meta-a")), ("text/x-form", "b"));
    // The name of the file can be part of the key.
    Form::new("forms", "up/${filename}", b"named".to_vec()).send(&s3).expect(204);
    assert_eq!(s3.read("forms", "up/a.bin"), b"named");
}

#[test]
fn a_form_outside_its_policy_stores_nothing() {
    let world = world();
    let s3 = world.s3();
    let form = || Form::new("forms", "k", vec![7; 100]);
    let with = |conditions: &[&str]| {
        let mut form = form();
        form.conditions = conditions.iter().map(|&text| text.into()).collect();
        form
    };
    let any = "[\"starts-with\",\"$key\",\"\"]";
    let mut refused = vec![
        ("wrong signature", Form { wrong_signature: true, ..form() }),
        ("expired", Form { expires_s: -5, ..form() }),
        ("anonymous", Form { anonymous: true, ..form() }),
        ("another key", with(&["{\"key\":\"other\"}"])),
        ("another prefix", with(&["[\"starts-with\",\"$key\",\"user/\"]"])),
        ("no word of the key", with(&[])),
        ("too large", with(&[any, "[\"content-length-range\",0,99]"])),
        ("too small", with(&[any, "[\"content-length-range\",101,200]"])),
        ("another type", with(&[any, "[\"starts-with\",\"$Content-Type\",\"image/\"]"])),
    ];
    let mut extra = form();
    extra.fields.push(("x-amz-meta-evil", "1"));
    refused.push(("a field that the policy does not name", extra));
    for (what, form) in refused {
        let got = form.send(&s3);
        assert!(matches!(got.status, 400 | 403), "{what}: {}", got.short());
        s3.head("forms", "k").send().expect(404);
    }
    let mut exact = with(&[any, "[\"content-length-range\",100,100]"]);
    exact.fields.push(("success_action_status", "200"));
    exact.conditions.push("{\"success_action_status\":\"200\"}".into());
    exact.send(&s3).expect(200);
}

#[test]
fn a_form_can_do_what_its_key_can() {
    let creator = Key::random().allow("forms", "in/", "\"create\"");
    let mut world = World::cold(1);
    world.config.keys.push(creator.clone());
    world.config.buckets.push("name = \"forms\"".into());
    world.start();
    let s3 = world.s3_as(&creator.creds);
    Form::new("forms", "in/k", b"first".to_vec()).send(&s3).expect(204);
    Form::new("forms", "in/k", b"second".to_vec()).send(&s3).expect_error(403, "AccessDenied");
    Form::new("forms", "out/k", b"x".to_vec()).send(&s3).expect_error(403, "AccessDenied");
    assert_eq!(world.s3().read("forms", "in/k"), b"first");
    world.s3().head("forms", "out/k").send().expect(404);
}

#[test]
fn a_form_has_a_largest_size() {
    let world = World::with(1, |config| config.server.push("post_form_max = \"1 MiB\"".into()));
    let s3 = world.s3();
    s3.create_bucket("forms");
    Form::new("forms", "fits", vec![1; 900 << 10]).send(&s3).expect(204);
    let got = Form::new("forms", "large", vec![1; 3 << 20]).send(&s3);
    assert!(got.status == 0 || (400..500).contains(&got.status), "{}", got.short());
    s3.head("forms", "large").send().expect(404);
}
