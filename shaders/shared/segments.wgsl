// Attention in segments: rows see the keys of their own one, a picture or a prompt, and no others. Compiled with a
// kernel's own `p`, whose t and s are the rows and keys where there is one segment (not SEGMENTED).
//
// segments [B, 8] u32: where a segment's rows lie, then its keys, each as `Span`; bound to q and not read where there is one.
//                      Over a cache the keys' pages begin at element `first` of the index
override SEGMENTED: bool = false;

// Where rows lie: `head` of them from row `first` on, the others from row `tail` on, `count` in all.
struct Span {
    first: u32,
    head: u32,
    tail: u32,
    count: u32,
}

struct Segment {
    rows: Span,
    keys: Span,
}

@group(0) @binding(5) var<storage, read> segments: array<Segment>;

// The segment that this workgroup works at.
var<private> own: Segment;

fn segment(i: u32) -> Segment {
    if SEGMENTED {
        return segments[i];
    }
    return Segment(Span(0u, p.t, 0u, p.t), Span(0u, p.s, 0u, p.s));
}

// The row of a tensor that is number i of a span.
fn row_in(span: Span, i: u32) -> u32 {
    if SEGMENTED {
        return select(span.tail + i - span.head, span.first + i, i < span.head);
    }
    return i;
}

fn rows_in(span: Span, i: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(row_in(span, i.x), row_in(span, i.y), row_in(span, i.z), row_in(span, i.w));
}
