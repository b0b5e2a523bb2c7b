use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn digest(letter: char) -> Digest {
    Digest::parse(&format!("sha256:{}", letter.to_string().repeat(64))).unwrap()
}

fn key(letter: char) -> String {
    letter.to_string().repeat(32)
}

fn base(letter: char) -> TreeName {
    TreeName::base(&digest(letter))
}

fn keyed(letter: char, of: char) -> TreeName {
    TreeName { digest: digest(letter), inherited: Some(key(of)) }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 1_000_000 * HOUR
}

/// An image of these trees.
fn image(hours: u32, trees: impl IntoIterator<Item = TreeName>) -> Image {
    Image {
        bytes: 0,
        last_used: now() - HOUR * hours,
        trees: trees.into_iter().collect(),
        damaged: false,
        exempt: false,
        in_use: None,
    }
}

/// An image of base trees.
fn images(hours: u32, layers: &str) -> Image {
    image(hours, layers.chars().map(base))
}

/// A layer of 100 bytes: a tree of 60, a blob of 30, and the rest.
fn layer() -> Layer {
    Layer {
        bytes: 100,
        trees: [(None, 60)].into(),
        blob: Some(30),
        extracted: true,
        has_content: true,
        ..Layer::default()
    }
}

/// Three images: of `a` and `b`, of `a` and `c`, and of `d`, last used 1, 30 and 10 hours ago.
fn stock() -> Stock {
    let layers = "abcd".chars().map(|letter| (digest(letter), layer())).collect();
    Stock { total: 400, images: vec![images(1, "ab"), images(30, "ac"), images(10, "d")], layers, ..Stock::default() }
}

fn at_most(max_bytes: u64) -> Bounds {
    Bounds { max_bytes: Some(max_bytes), ..Bounds::default() }
}

/// A plan as text: what goes, and in brackets what stays, with its bytes.
fn told(stock: &Stock, bounds: Bounds) -> Vec<String> {
    let letter = |digest: &Digest| digest.hex()[..1].to_owned();
    let name = |target: &Target| match target {
        Target::Leftover(at) => format!("leftover {at}"),
        Target::Partial(digest) => format!("partial {}", letter(digest)),
        Target::Layer(digest) => format!("layer {}", letter(digest)),
        Target::Tree(tree) => {
            let key = tree.inherited.as_ref().map(|key| format!(".{}", &key.as_str()[..1])).unwrap_or_default();
            format!("tree {}{key}", letter(&tree.digest))
        }
        Target::Blob(digest) => format!("blob {}", letter(digest)),
        Target::Image(at) => format!("image {at}"),
    };
    let text = |step: &Planned| match step.stays {
        None => format!("{} {}", name(&step.target), step.bytes),
        Some(why) => format!("[{} {why:?}]", name(&step.target)),
    };
    plan(stock, bounds, now()).iter().map(text).collect()
}

#[test]
fn nothing_goes_unless_a_bound_says_so() {
    assert!(told(&stock(), Bounds::default()).is_empty());
    assert!(told(&stock(), at_most(400)).is_empty());
}

#[test]
fn what_was_not_used_for_long_goes_unless_it_is_exempt() {
    let mut stock = stock();
    let bounds = Bounds { older_than: Some(5 * HOUR), ..Bounds::default() };
    assert_eq!(told(&stock, bounds), ["image 1 0", "layer c 100", "image 2 0", "layer d 100"]);
    stock.images[1].exempt = true;
    assert_eq!(told(&stock, bounds), ["image 2 0", "layer d 100"]);
}

#[test]
fn only_the_images_used_last_are_kept() {
    let bounds = |keep| Bounds { keep: Some(keep), ..Bounds::default() };
    assert_eq!(told(&stock(), bounds(2)), ["image 1 0", "layer c 100"]);
    assert_eq!(told(&stock(), bounds(0)).len(), 7);
    assert!(told(&stock(), bounds(9)).is_empty());
}

#[test]
fn the_least_recently_used_go_until_it_fits_and_shared_layers_count_once() {
    // Image 1 frees only `c`, since `a` is image 0's as well.
    assert_eq!(told(&stock(), at_most(300)), ["image 1 0", "layer c 100"]);
    assert_eq!(told(&stock(), at_most(299)), ["image 1 0", "layer c 100", "image 2 0", "layer d 100"]);
    let all = ["image 1 0", "layer c 100", "image 2 0", "layer d 100", "image 0 0", "layer a 100", "layer b 100"];
    assert_eq!(told(&stock(), at_most(0)), all);
}

#[test]
fn a_last_use_that_is_still_to_come_counts_as_now() {
    let mut stock = stock();
    // Of the two that count as used now, the one that stands first in the cache goes first, whatever its clock said.
    stock.images[0].last_used = now() + 1000 * HOUR;
    stock.images[2].last_used = now() + HOUR;
    let bounds = Bounds { keep: Some(1), ..Bounds::default() };
    assert_eq!(told(&stock, bounds), ["image 1 0", "layer c 100", "image 0 0", "layer a 100", "layer b 100"]);
    assert!(told(&stock, Bounds { older_than: Some(40 * HOUR), ..Bounds::default() }).is_empty());
}

#[test]
fn leftovers_and_abandoned_downloads_go_before_any_image() {
    let mut stock = stock();
    stock.leftovers.push(Loose { bytes: 50, in_use: None });
    let old = Part { bytes: 70, touched: now() - 8 * 24 * HOUR };
    stock.layers.insert(digest('e'), Layer { bytes: 70, part: Some(old), ..Layer::default() });
    stock.total += 120;
    // 20 MB of what crashes left once cost all images, though removing it alone would do.
    assert_eq!(told(&stock, at_most(400)), ["leftover 0 50", "partial e 70"]);
    assert_eq!(told(&stock, at_most(399)), ["leftover 0 50", "partial e 70", "image 1 0", "layer c 100"]);
}

#[test]
fn layers_and_trees_that_nobody_names_go_before_any_image() {
    let mut stock = stock();
    stock.layers.insert(digest('e'), layer());
    stock.layers.get_mut(&digest('a')).unwrap().trees.insert(Some(key('1')), 40);
    stock.layers.get_mut(&digest('a')).unwrap().bytes += 40;
    stock.total += 140;
    assert_eq!(told(&stock, at_most(400)), ["tree a.1 40", "layer e 100"]);
}

#[test]
fn blobs_go_before_any_image_if_they_are_asked_for() {
    let bounds = |max_bytes| Bounds { blobs: true, ..at_most(max_bytes) };
    let mut stock = stock();
    let all = ["blob a 30", "blob b 30", "blob c 30", "blob d 30"];
    assert_eq!(told(&stock, bounds(280)), all);
    // What a layer frees afterwards is what it has without its blob.
    assert_eq!(told(&stock, bounds(279)), [&all[..], &["image 1 0", "layer c 70"]].concat());
    stock.layers.get_mut(&digest('b')).unwrap().extracted = false;
    assert_eq!(told(&stock, bounds(400)), ["blob a 30", "blob c 30", "blob d 30"]);
}

#[test]
fn a_tree_goes_with_the_last_image_that_names_it_and_its_layer_with_the_last_of_all() {
    let mut stock = stock();
    stock.images = vec![images(1, "a"), image(20, [keyed('a', '1')]), image(30, [keyed('a', '2'), base('d')])];
    let a = stock.layers.get_mut(&digest('a')).unwrap();
    a.trees.extend([(Some(key('1')), 10), (Some(key('2')), 20)]);
    a.bytes += 30;
    stock.layers.retain(|digest, _| "ad".contains(&digest.hex()[..1]));
    let bounds = |keep| Bounds { keep: Some(keep), ..Bounds::default() };
    let first = ["image 2 0", "layer d 100", "tree a.2 20"];
    assert_eq!(told(&stock, bounds(2)), first);
    assert_eq!(told(&stock, bounds(1)), [&first[..], &["image 1 0", "tree a.1 10"]].concat());
    // The layer's 130 bytes, each counted once.
    assert_eq!(
        told(&stock, bounds(0)),
        [&first[..], &["image 1 0", "tree a.1 10", "image 0 0", "layer a 100"]].concat()
    );
}

#[test]
fn a_base_tree_that_nobody_names_goes_and_leaves_what_the_others_need() {
    let mut stock = stock();
    stock.images = vec![image(1, [keyed('a', '1')])];
    stock.layers.retain(|layer, _| *layer == digest('a'));
    stock.layers.get_mut(&digest('a')).unwrap().trees.insert(Some(key('1')), 10);
    assert_eq!(told(&stock, Bounds::default()), ["tree a 60"]);
    let recovery = |bounds| plan(&stock, bounds, now())[0].recovery;
    assert_eq!(recovery(Bounds::default()), Recovery::Extract);
    assert_eq!(recovery(Bounds { blobs: true, ..Bounds::default() }), Recovery::Download);
}

#[test]
fn what_is_in_use_is_told_and_frees_nothing() {
    let mut stock = stock();
    stock.images[1].in_use = Some(Reason::Locked);
    // Image 2 goes before image 1, which was used longer ago, and image 0 goes since image 1 could not.
    assert_eq!(told(&stock, at_most(300)), ["image 2 0", "layer d 100"]);
    let all = ["image 2 0", "layer d 100", "image 0 0", "layer b 100", "[image 1 Locked]"];
    assert_eq!(told(&stock, at_most(100)), all);
    let old = Bounds { older_than: Some(20 * HOUR), ..Bounds::default() };
    assert_eq!(told(&stock, old), ["[image 1 Locked]"]);
}

#[test]
fn a_leased_or_locked_layer_counts_and_another_image_goes_for_it() {
    let mut stock = stock();
    for (why, in_use) in [("Leased", Reason::Leased), ("Locked", Reason::Locked)] {
        stock.layers.get_mut(&digest('c')).unwrap().in_use = Some(in_use);
        let kept = format!("[layer c {why}]");
        assert_eq!(told(&stock, at_most(300)), ["image 1 0", &kept, "image 2 0", "layer d 100"]);
    }
}

#[test]
fn while_a_pull_does_not_say_what_it_needs_no_layer_and_no_tree_goes() {
    let mut stock = stock();
    stock.unknown_pull = true;
    stock.layers.insert(digest('e'), layer());
    stock.layers.get_mut(&digest('a')).unwrap().trees.insert(Some(key('1')), 40);
    assert_eq!(told(&stock, Bounds::default()), ["[tree a.1 PullUnderWay]", "[layer e PullUnderWay]"]);
    stock.layers.get_mut(&digest('e')).unwrap().in_use = Some(Reason::Leased);
    assert_eq!(told(&stock, Bounds::default()), ["[tree a.1 PullUnderWay]", "[layer e Leased]"]);
}

#[test]
fn a_download_that_somebody_may_go_on_with_is_told_where_the_cache_stays_too_large() {
    let mut stock = stock();
    let fresh = Part { bytes: 50, touched: now() - HOUR };
    let later = Part { bytes: 50, touched: now() + 1000 * HOUR };
    stock.layers.insert(digest('e'), Layer { bytes: 50, part: Some(fresh), ..Layer::default() });
    stock.layers.insert(digest('f'), Layer { bytes: 50, part: Some(later), ..Layer::default() });
    stock.total += 100;
    assert!(told(&stock, Bounds::default()).is_empty());
    assert_eq!(told(&stock, at_most(400)), ["image 1 0", "layer c 100"]);
    let all = told(&stock, at_most(99));
    assert_eq!(all[all.len() - 2..], ["[partial e Fresh]", "[partial f Fresh]"]);
    assert_eq!(all.iter().filter(|step| step.starts_with("image")).count(), 3);
    let asked = Bounds { partials: Some(true), ..Bounds::default() };
    assert_eq!(told(&stock, asked), ["partial e 50", "partial f 50"]);
    let none = Bounds { partials: Some(false), ..at_most(0) };
    assert!(!told(&stock, none).iter().any(|step| step.contains("partial")));
}

#[test]
fn damaged_metadata_go_before_the_layers_that_nobody_names_then() {
    let mut stock = stock();
    stock.images.push(Image { bytes: 5, damaged: true, ..images(0, "") });
    stock.layers.insert(digest('e'), layer());
    assert_eq!(told(&stock, Bounds::default()), ["image 3 5", "layer e 100"]);
}

#[test]
fn every_byte_that_goes_is_told_once() {
    let mut stock = stock();
    let old = Part { bytes: 10, touched: now() - 100 * 24 * HOUR };
    for layer in stock.layers.values_mut() {
        layer.bytes += 50;
        layer.part = Some(old);
        layer.trees.insert(Some(key('9')), 40);
    }
    stock.leftovers.push(Loose { bytes: 7, in_use: None });
    stock.total = 607;
    let plan = plan(&stock, Bounds { blobs: true, ..at_most(0) }, now());
    assert!(plan.iter().all(|step| step.stays.is_none()));
    assert_eq!(plan.iter().map(|step| step.bytes).sum::<u64>(), stock.total);
}
