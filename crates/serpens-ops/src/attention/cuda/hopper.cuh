// Tiles in shared memory, barriers and products of four warps as Hopper has them.
//
// A tile has strips of 64 columns: rows of 128 bytes one behind the other, whose eight 16-byte chunks stand in an order
// of their own in each of eight rows. So wgmma reads a tile by rows or by columns, without conflicts.
//
// Macro: HEAD (columns of a head, a multiple of 8, at most 128). Columns beyond it are zeros in shared memory.

constexpr int STRIPS = (HEAD + 63) / 64, WIDTH = 64 * STRIPS;
constexpr int DEPTH = (HEAD + 15) / 16;  // products of 16 columns each that a head's dot product takes

__device__ __forceinline__ u32 place(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }
__device__ constexpr u32 tile_bytes(int rows) { return STRIPS * rows * 128; }

// ---- copies --------------------------------------------------------------------------------------------------------

// Starts a copy of 16 bytes, or of none and then of zeros.
__device__ __forceinline__ void copy_chunk(u32 to, const void* from, u32 bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Starts copies of ROWS rows of a head, of which `count` exist; the others become zeros. By LOADERS threads.
template <int ROWS, int LOADERS> __device__ __forceinline__ void read_tile(u32 to, const bf16* from, i64 stride, int count, int thread) {
    constexpr int STEP = LOADERS / 8;
    static_assert(ROWS % STEP == 0 && STEP % 8 == 0, "every thread has as many rows, in one order of chunks");
    int row = thread / 8, chunk = thread % 8;
    to += place(row, chunk);
#pragma unroll 1
    for (int strip = 0; strip < STRIPS; ++strip) {
        int column = strip * 64 + chunk * 8;
        const bf16* own = from + row * stride + column;
#pragma unroll 2
        for (int i = row; i < ROWS; i += STEP) {
            u32 bytes = column < HEAD && i < count ? 16 : 0;
            copy_chunk(to, bytes ? own : from, bytes);
            to += STEP * 128, own += STEP * stride;
        }
    }
}

// What this thread has written to shared memory is seen by wgmma and by bulk copies.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- barriers ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void init_barrier(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void await(u32 barrier, u32 parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(barrier), "r"(parity) : "memory");
}

// Lanes of a warp that arrive for all of it, after it has met. Racecheck does not follow the one to what the others did;
// for it RACECHECK makes all arrive.
#ifdef RACECHECK
constexpr int SPEAKERS = 32;
#else
constexpr int SPEAKERS = 1;
#endif
__device__ __forceinline__ void arrive_together(u32 barrier) {
    __syncwarp();
    if (threadIdx.x % 32 < SPEAKERS) arrive(barrier);
}

// Places of tiles that are filled and emptied in turn: `full` and `empty` barriers of each, 16 bytes a place.
template <int PLACES> struct Ring {
    u32 barriers;
    int stage = 0;
    u32 parity = 0;

    __device__ __forceinline__ Ring(u32 barriers) : barriers(barriers) {}
    __device__ __forceinline__ void init(int fillers, int emptiers) const {
        for (int i = 0; i < PLACES; ++i) init_barrier(barriers + 16 * i, fillers), init_barrier(barriers + 16 * i + 8, emptiers);
    }
    __device__ __forceinline__ void advance() {
        if (++stage == PLACES) stage = 0, parity ^= 1;
    }
    __device__ __forceinline__ u32 full() const { return barriers + 16 * stage; }
    __device__ __forceinline__ void await_full() const { await(full(), parity); }
    __device__ __forceinline__ void await_empty() const { await(full() + 8, parity ^ 1); }
    // By every lane of a warp that has read all that it will read of this place.
    __device__ __forceinline__ void leave() const { arrive_together(full() + 8); }
};

// Says `full` of copies some time after they were started, so that several are under way: not more than LATE places
// wait to be told. Every loading thread tells of its own copies.
template <int LATE> struct Telling {
    u32 barriers[LATE];
    int started = 0;

    __device__ __forceinline__ void started_for(u32 barrier) {
        copy_commit();
        if (started >= LATE) {
            copy_wait<LATE>();
            publish();
            arrive(barriers[0]);
        }
#pragma unroll
        for (int i = 0; i + 1 < LATE; ++i) barriers[i] = barriers[i + 1];
        barriers[LATE - 1] = barrier;
        ++started;
    }
    __device__ __forceinline__ void finish() {
        copy_wait<0>();
        publish();
#pragma unroll
        for (int i = 0; i < LATE; ++i)
            if (started >= LATE - i) arrive(barriers[i]);
    }
};

// ---- products ------------------------------------------------------------------------------------------------------

// An operand in shared memory of which wgmma reads 16 columns of some rows, or 16 rows of strips `strip_bytes` apart:
// groups of eight rows lie 1,024 bytes apart.
__device__ __forceinline__ u64 operand(u32 address, u32 strip_bytes = 16) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(strip_bytes >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
constexpr u32 NEXT_COLUMNS = 32 >> 4, NEXT_ROWS = 16 * 128 >> 4;  // from 16 columns, or 16 rows, to the next

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most LEFT of the committed groups are under way.
template <int LEFT> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// Sums are not read, nor operands in registers written, before the wait that stands before this.
template <int N> __device__ __forceinline__ void settle(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i]));
}
template <int N> __device__ __forceinline__ void settle(u32 (&a)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+r"(a[i][0]), "+r"(a[i][1]), "+r"(a[i][2]), "+r"(a[i][3]));
}

#define EIGHT(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define D_32 EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)
#define D_64 D_32, EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
#define NAMES_32                                                                                     \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20," \
    " %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                             \
    NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49,"   \
             " %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA(N) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 "

// d += a b of 64 rows, a warp's 16: d[4 i + 2 h + j] is that of row lane / 4 + 8 h and column 8 i + 2 (lane % 4) + j.
// `a` is read by columns where A_COLUMNS is 1, `b` has the products' columns as its rows, or as its columns where
// B_COLUMNS is 1. Where ADD is 0, d was nothing before.
template <int ADD, int A_COLUMNS, int B_COLUMNS> __device__ __forceinline__ void multiply(float (&d)[32], u64 a, u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n" WGMMA(64) "{" NAMES_32 "}, %32, %33, add, 1, 1, %35, %36;\n}"
                 : D_32 : "l"(a), "l"(b), "n"(ADD), "n"(A_COLUMNS), "n"(B_COLUMNS));
}
template <int ADD, int A_COLUMNS, int B_COLUMNS> __device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n" WGMMA(128) "{" NAMES_64 "}, %64, %65, add, 1, 1, %67, %68;\n}"
                 : D_64 : "l"(a), "l"(b), "n"(ADD), "n"(A_COLUMNS), "n"(B_COLUMNS));
}
// The same with `a` in registers, `b` by columns.
__device__ __forceinline__ void multiply(float (&d)[32], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA(64) "{" NAMES_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;" : D_32 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void multiply(float (&d)[64], const u32 (&a)[4], u64 b) {
    asm volatile(WGMMA(128) "{" NAMES_64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;" : D_64 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Begins d = a bᵀ of 64 rows of `a` and all ROWS_B of `b`, over the columns of a head.
template <int ROWS_A, int ROWS_B> __device__ __forceinline__ void dots(float (&d)[ROWS_B / 2], u32 a, u32 b) {
    products_begin();
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
        u64 from_a = operand(a + k / 4 * ROWS_A * 128) + k % 4 * NEXT_COLUMNS, from_b = operand(b + k / 4 * ROWS_B * 128) + k % 4 * NEXT_COLUMNS;
        if (k == 0)
            multiply<0, 0, 0>(d, from_a, from_b);
        else
            multiply<1, 0, 0>(d, from_a, from_b);
    }
    products_commit();
}
// Begins d += a b with `a` in registers: its columns are the ROWS rows of `b`.
template <int ROWS> __device__ __forceinline__ void weigh(float (&d)[WIDTH / 2], const u32 (&a)[ROWS / 16][4], u32 b) {
    products_begin();
#pragma unroll
    for (int k = 0; k < ROWS / 16; ++k) multiply(d, a[k], operand(b, ROWS * 128) + k * NEXT_ROWS);
    products_commit();
}

// Sums as the first operand of the next product.
template <int N> __device__ __forceinline__ void pack(u32 (&a)[N / 8][4], const float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) a[i / 4][i % 4] = pack_bf16(d[2 * i], d[2 * i + 1]);
}

// ---- results -------------------------------------------------------------------------------------------------------

// Four lanes' four words each, the other way round.
__device__ __forceinline__ void transpose(u32 (&x)[4]) {
    int lane = threadIdx.x % 4;
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            u32& low = x[step == 1 ? 2 * pair : pair];
            u32& high = x[step == 1 ? 2 * pair + 1 : pair + 2];
            u32 other = __shfl_xor_sync(0xffffffffu, lane & step ? low : high, step);
            (lane & step ? low : high) = other;
        }
}

// Sums of 64 columns of rows `row` and `row` + 8 to global memory, where they exist: 16 bytes a lane, because stores of
// four take as long each. By whole warps.
__device__ __forceinline__ void put_strip(bf16* to, i64 stride, int column, int row, int end, const float* d, const float (&factor)[2]) {
    int lane = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            u32 words[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) words[j] = pack_bf16(d[4 * (i + j) + 2 * half] * factor[half], d[4 * (i + j) + 2 * half + 1] * factor[half]);
            transpose(words);
            int own = column + 8 * (i + lane);
            if (row + 8 * half < end && own < HEAD)
                *reinterpret_cast<uint4*>(to + (row + 8 * half) * stride + own) = make_uint4(words[0], words[1], words[2], words[3]);
        }
}
// The same of all columns.
__device__ __forceinline__ void put_rows(bf16* to, i64 stride, int row, int end, const float (&d)[WIDTH / 2], const float (&factor)[2]) {
#pragma unroll
    for (int strip = 0; strip < STRIPS; ++strip) put_strip(to, stride, 64 * strip, row, end, d + 32 * strip, factor);
}
