// K neighbouring values as they lie in memory: read in accesses of at most 16 bytes, converted where they are used, so
// that several reads can be under way and values read ahead take few registers.
template <int K, class T> struct Packet {
    static constexpr int BYTES = K * (int)sizeof(T), ACCESS = BYTES > 16 ? 16 : BYTES;
    typedef typename Words<ACCESS>::type Word;
    union {
        Word words[BYTES / ACCESS];
        T values[K];
    };

    __device__ __forceinline__ void read(const T* from) {
#pragma unroll
        for (int i = 0; i < BYTES / ACCESS; ++i) words[i] = reinterpret_cast<const Word*>(from)[i];
    }
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < BYTES / ACCESS; ++i) words[i] = Word{};
    }
    __device__ __forceinline__ float operator[](int i) const { return to_f32(values[i]); }
};
