// Weights of mamba_layers in blocks of 32 inputs that share a scale, as quantized_linear/cuda lays them: a stage is a
// panel of eight rows, or a part of its columns, and its scales. Every 32 inputs become integers of 8 bits with a scale
// too.
//
// A share of a warp has up to eight blocks. Row i of the first operand holds the i-th alone, so that one accumulator
// gets the sums of all of them, each in a row (four lanes) of its own, before scales are applied.

constexpr int PACKED = WEIGHT == Q8_0_WEIGHT ? 2 : 4;  // blocks in 16 bytes of a lane, four of which have a row
constexpr int GROUP = 32 * PACKED, GROUPS = SHARE / GROUP;
constexpr int VALUE_BYTES = COLUMNS / GROUP * 512, SCALE_BYTES = COLUMNS / 32 * 16, STAGE = VALUE_BYTES + SCALE_BYTES;
// Panels that so many of own channels or rows may lie in, which may begin inside one.
template <int OWN> struct Panels { static constexpr int COUNT = OWN % 8 == 0 ? OWN / 8 : OWN % 4 == 0 ? (OWN + 11) / 8 : (OWN + 13) / 8; };
constexpr int IN_PANELS = 2 * Panels<CHANNELS>::COUNT, OUT_PANELS = Panels<ROWS>::COUNT;
constexpr int IN_STAGES = IN_PANELS * IN_PARTS, STAGES = IN_STAGES + OUT_PANELS * OUT_PARTS;
constexpr int SUMS = 8 * (IN_PANELS > OUT_PANELS ? IN_PANELS : OUT_PANELS);  // of a warp
static_assert(SHARE % GROUP == 0 && SHARE <= 256 && D_MODEL % GROUP == 0 && ROWS % 2 == 0 && CHANNELS % 2 == 0, "");

// Where the sum of a channel's z is among those of W_in, x being first, and where own rows and channels begin.
constexpr int Z_SUM = 8 * Panels<CHANNELS>::COUNT;
__device__ __forceinline__ int first_sum(int first) { return first % 8; }

// What is multiplied.
struct __align__(16) Inputs {
    u8 values[D_INNER];
    float scales[D_INNER / 32];

    // Four values each, 4 THREADS from one to the next, of which `exist` exist: eight lanes have a block.
    template <int COUNT> __device__ __forceinline__ void put(int exist, const float4 (&x)[COUNT]) {
        float largest[COUNT];
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            largest[i] = larger_or_nan(larger_or_nan(fabsf(x[i].x), fabsf(x[i].y)), larger_or_nan(fabsf(x[i].z), fabsf(x[i].w)));
#pragma unroll
        for (int step = 1; step < 8; step *= 2)
#pragma unroll
            for (int i = 0; i < COUNT; ++i) largest[i] = larger_or_nan(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], step));
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            if (i >= exist) break;
            int place = threadIdx.x + i * THREADS;
            BlockScale scale(largest[i]);
            reinterpret_cast<u32*>(values)[place] = bytes_of(scale.rounded(x[i].x), scale.rounded(x[i].y), scale.rounded(x[i].z), scale.rounded(x[i].w));
            if (place % 8 == 0) scales[place / 8] = PACKED == 4 ? scale.scale * 0.0625f : scale.scale;
        }
    }
};

// The last warp: a panel's eight rows and COLUMNS columns a stage: panels of x, of z, then of W_out, of every layer.
__device__ void ask_weights(Ring& ring, char* stages, const MambaLayersParams& p, int first, int first_row) {
    int lane = threadIdx.x % 32;
    Asking asking(ring);
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        const char *in = reinterpret_cast<const char*>(p.layers[l].in_proj), *out = reinterpret_cast<const char*>(p.layers[l].out_proj);
#pragma unroll 1
        for (int i = 0; i < STAGES; ++i) {
            const char *from, *scales;
            int place;
            if (i < IN_STAGES) {
                int panel = i / IN_PARTS, is_z = panel >= IN_PANELS / 2;
                panel = min(first / 8 + (is_z ? panel - IN_PANELS / 2 : panel), D_INNER / 8 - 1) + (is_z ? D_INNER / 8 : 0);
                place = panel * IN_PARTS + i % IN_PARTS;
                from = in, scales = in + (i64)2 * D_INNER * D_MODEL / PACKED * 2;
            } else {
                int panel = min(first_row / 8 + (i - IN_STAGES) / OUT_PARTS, D_MODEL / 8 - 1);
                place = panel * OUT_PARTS + (i - IN_STAGES) % OUT_PARTS;
                from = out, scales = out + (i64)D_MODEL * D_INNER / PACKED * 2;
            }
            asking.begin(STAGE);
            char* to = stages + asking.place.stage * STAGE;
            if (lane == 0) {
                asking.copy(to, from + (i64)place * VALUE_BYTES, VALUE_BYTES);
                asking.copy(to + VALUE_BYTES, scales + (i64)place * SCALE_BYTES, SCALE_BYTES);
            }
            asking.place.next();
        }
    }
}

// d += a b of integers: row lane / 4 of the first operand has eight values of each lane, the second is eight outputs.
__device__ __forceinline__ void multiply(u32 (&d)[4], uint2 a, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a.x), "r"(0), "r"(a.y), "r"(b0), "r"(b1));
}

// A warp's share of the products: of PANELS panels, the columns of each stage that are its own.
struct Products {
    Ring& ring;
    const Inputs& inputs;
    float* sums;         // of this warp
    const char* values;  // this lane's place in the first stage
    const char* scales;  // of this lane's block and its two outputs
    int warp, lane;
    Place place;

    __device__ __forceinline__ Products(Ring& ring, const Inputs& inputs, float* sums, const char* stages)
        : ring(ring), inputs(inputs), warp(threadIdx.x / 32), lane(threadIdx.x % 32), place{0, 0} {
        int g = min(lane / 4, SHARE / 32 - 1), q = lane % 4;
        values = stages + warp * GROUPS * 512 + lane * 16;
        scales = stages + VALUE_BYTES + (((warp * GROUPS + g / PACKED) * 8 + 2 * q) * PACKED + g % PACKED) * 2;
        this->sums = sums + warp * SUMS;
    }

    template <int PANELS, int PARTS> __device__ __forceinline__ void add_up() {
        int g = lane / 4, q = lane % 4;
        bool exists = g < SHARE / 32;
        uint2 x[PARTS];
        float x_scale[PARTS];
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            int block = (part * COLUMNS + warp * SHARE) / 32 + (exists ? g : 0);
            x[part] = *reinterpret_cast<const uint2*>(inputs.values + block * 32 + 8 * q);
            x_scale[part] = exists ? inputs.scales[block] : 0.0f;
        }
#pragma unroll
        for (int from = 0; from < PANELS; from += 4) {
            float own[8];  // of four panels, the sums of this lane's block with two outputs
#pragma unroll
            for (int t = 0; t < 4; ++t) {
                own[2 * t] = own[2 * t + 1] = 0.0f;
                if (from + t < PANELS) add_panel<PARTS>(x, x_scale, own[2 * t], own[2 * t + 1]);
            }
            // Those of all blocks: lane g keeps the g-th.
#pragma unroll
            for (int step = 16, kept = 4; kept > 0; step /= 2, kept /= 2)
#pragma unroll
                for (int i = 0; i < kept; ++i) own[i] = exchange(own[i], own[i + kept], step, lane & step);
            if (from + g / 2 < PANELS) sums[8 * (from + g / 2) + 2 * q + g % 2] = own[0];
        }
    }

    template <int PARTS> __device__ __forceinline__ void add_panel(const uint2 (&x)[PARTS], const float (&x_scale)[PARTS], float& first, float& second) {
        int g = lane / 4;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            barrier_wait(&ring.full[place.stage], place.parity);
            const char *from = values + place.stage * STAGE, *from_scales = scales + place.stage * STAGE;
            u32 d[2][4] = {{__float_as_uint(ROUND), __float_as_uint(ROUND), 0, 0}, {0, 0, 0, 0}};
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                uint4 w = *reinterpret_cast<const uint4*>(from + group * 512);
                u32 words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int i = 0; i < PACKED; ++i) {
                    bool own = g == group * PACKED + i;
                    uint2 a = make_uint2(own ? x[part].x : 0, own ? x[part].y : 0);
                    if (PACKED == 2) {
                        multiply(d[i % 2], a, words[2 * i % 4], words[(2 * i + 1) % 4]);
                    } else {  // 16 times the values, by which the scale of x is less
                        multiply(d[i % 2], a, words[i] << 4 & 0xf0f0f0f0u, words[i] & 0xf0f0f0f0u);
                    }
                }
            }
            float w_first = half_to_f32(*reinterpret_cast<const u16*>(from_scales));
            float w_second = half_to_f32(*reinterpret_cast<const u16*>(from_scales + 2 * PACKED));
            barrier_arrive(&ring.empty[place.stage]);
            first = fmaf(w_first * x_scale[part], __uint_as_float(d[0][0] + d[1][0]) - ROUND, first);
            second = fmaf(w_second * x_scale[part], __uint_as_float(d[0][1] + d[1][1]) - ROUND, second);
            place.next();
        }
    }
};
