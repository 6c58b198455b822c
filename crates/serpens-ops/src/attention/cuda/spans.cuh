// Which keys a query sees, and which queries see a key: both are spans without gaps, and neither end of a span ever
// goes back from one row to the next. So tiles of rows see spans of tiles, and packed sequences, batches of equal
// lengths, windows and keys from before the first query are one case.
//
// Macro: DOCUMENTS (1: sequences are packed, and `documents` tells where that of each row begins and ends).

__device__ __forceinline__ float infinite() { return __int_as_float(0x7f800000); }

struct Span {
    int first, last;

    __device__ __forceinline__ bool has(int row) const { return row >= first && row <= last; }
};

__device__ __forceinline__ Span keys_of(const AttentionParams& p, int query) {
#if DOCUMENTS
    int begin = p.documents[query].x, last = query;
#else
    int sequence = query / p.length, begin = sequence * (p.length + p.past), last = query + (sequence + 1) * p.past;
#endif
    return {max(begin, last - p.window + 1), last};
}

// There are as many queries as keys: nothing lies before them where gradients are asked for.
__device__ __forceinline__ Span queries_of(const AttentionParams& p, int key) {
#if DOCUMENTS
    int end = p.documents[key].y;
#else
    int end = (key / p.length + 1) * p.length;
#endif
    return {key, min(end, key + p.window) - 1};
}

// A tile of up to ROWS queries or keys: the `number`-th of a stretch. Tiles begin anew with every stretch: a sequence,
// or all rows where sequences are packed or short.
template <int ROWS> struct Tile {
    int stretch, number, first, end;

    static __device__ __forceinline__ int of_stretch(const AttentionParams& p) { return (p.stretch + ROWS - 1) / ROWS; }

    __device__ __forceinline__ Tile(const AttentionParams& p, int stretch, int number) : stretch(stretch), number(number) {
        first = stretch * p.stretch + number * ROWS;
        end = min(first + ROWS, (stretch + 1) * p.stretch);
    }
};
