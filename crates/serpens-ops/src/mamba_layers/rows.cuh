// Weights of mamba_layers in bf16: stages of eight rows, those of x and z behind each other.

constexpr int IN_PANELS = (2 * CHANNELS + 7) / 8, OUT_PANELS = (ROWS + 7) / 8;
constexpr int IN_STAGES = IN_PANELS * IN_PARTS, STAGES = IN_STAGES + OUT_PANELS * OUT_PARTS;
constexpr int CHUNK = 64, CHUNKS = SHARE / CHUNK;
// Bytes of a row of a stage: the padding spreads eight rows over all banks.
constexpr int PITCH = COLUMNS * 2 + 64, STAGE = 8 * PITCH;
constexpr int SUMS = 8 * (IN_PANELS > OUT_PANELS ? IN_PANELS : OUT_PANELS);  // of a warp
static_assert(SHARE % CHUNK == 0, "");

// What is multiplied.
struct __align__(16) Inputs {
    bf16 values[D_INNER];
    // Four values each, 4 THREADS from one to the next, of which `exist` exist.
    template <int COUNT> __device__ __forceinline__ void put(int exist, const float4 (&x)[COUNT]) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (i < exist) reinterpret_cast<uint2*>(values)[threadIdx.x + i * THREADS] = make_uint2(pack_bf16(x[i].x, x[i].y), pack_bf16(x[i].z, x[i].w));
    }
};

// Where the sum of a channel's z is among those of W_in, x being first, and where own rows and channels begin.
constexpr int Z_SUM = CHANNELS;
__device__ __forceinline__ int first_sum(int) { return 0; }

// The last warp: eight rows of COLUMNS columns a stage, panel after panel of W_in, then of W_out, of every layer.
__device__ void ask_weights(Ring& ring, char* stages, const MambaLayersParams& p, int first, int first_row) {
    int lane = threadIdx.x % 32;
    Asking asking(ring);
#pragma unroll 1
    for (int l = 0; l < p.count; ++l) {
        const bf16 *in = p.layers[l].in_proj, *out = p.layers[l].out_proj;
#pragma unroll 1
        for (int i = 0; i < STAGES; ++i) {
            const bf16* from;
            int exist;
            if (i < IN_STAGES) {  // rows of x, then those of z
                int row = i / IN_PARTS * 8 + lane;
                exist = 8;
                from = in + (i64)(row < CHANNELS ? first + row : D_INNER - CHANNELS + first + row) * D_MODEL + i % IN_PARTS * COLUMNS;
            } else {
                int panel = (i - IN_STAGES) / OUT_PARTS;
                exist = min(8, ROWS - 8 * panel);
                from = out + (i64)(first_row + 8 * panel + lane) * D_INNER + (i - IN_STAGES) % OUT_PARTS * COLUMNS;
            }
            asking.begin(exist * COLUMNS * 2);
            if (lane < exist) asking.copy(stages + asking.place.stage * STAGE + lane * PITCH, from, COLUMNS * 2);
            asking.place.next();
        }
    }
}

// d += a b for one row of x (of 16 that there might be), 8 outputs and 16 inputs.
__device__ __forceinline__ void multiply(float (&d)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

// A warp's share of the products: of PANELS panels of eight outputs, the columns of each stage that are its own.
struct Products {
    Ring& ring;
    const Inputs& inputs;
    float* sums;      // of this warp
    const char* own;  // this lane's place in the first stage
    int warp, lane;
    Place place;

    __device__ __forceinline__ Products(Ring& ring, const Inputs& inputs, float* sums, const char* stages)
        : ring(ring), inputs(inputs), warp(threadIdx.x / 32), lane(threadIdx.x % 32), place{0, 0} {
        own = stages + lane / 4 * PITCH + warp * SHARE * 2 + lane % 4 * 16;
        this->sums = sums + warp * SUMS;
    }

    // The sums of this warp's columns. Any 8 inputs may come first in a product, as both operands agree.
    template <int PANELS, int PARTS> __device__ __forceinline__ void add_up() {
        uint4 x[PARTS][CHUNKS][2];
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int c = 0; c < 2 * CHUNKS; ++c) {
                const bf16* from = inputs.values + part * COLUMNS + warp * SHARE + c * 32 + lane % 4 * 8;
                x[part][c / 2][c % 2] = lane < 4 ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
        for (int t = 0; t < PANELS; ++t) {
            float first[4] = {0, 0, 0, 0}, second[4] = {0, 0, 0, 0};
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                barrier_wait(&ring.full[place.stage], place.parity);
                const char* from = own + place.stage * STAGE;
#pragma unroll
                for (int c = 0; c < 2 * CHUNKS; ++c) {
                    uint4 w = *reinterpret_cast<const uint4*>(from + c * 64), own_x = x[part][c / 2][c % 2];
                    multiply(first, own_x.x, own_x.y, w.x, w.y);
                    multiply(second, own_x.z, own_x.w, w.z, w.w);
                }
                barrier_arrive(&ring.empty[place.stage]);
                place.next();
            }
            if (lane < 4) *reinterpret_cast<float2*>(sums + 8 * t + 2 * lane) = make_float2(first[0] + second[0], first[1] + second[1]);
        }
    }
};
