/* A whole program for a board without an operating system: the mps2 boards that qemu emulates. It
   reads a prompt that is compiled in, writes the ids of its tokens and of the text that goes on
   from it, and how many instructions a token took.

   MODEL is the file that `itera export --format c` wrote, PROMPT a text, TOKENS a number. */
#define ITERA_HEADER
#include MODEL

#include <string.h>

extern char stack_top[], data_load[], data_begin[], data_end[], bss_begin[], bss_end[];
static void reset(void);

__attribute__((section(".vectors"), used)) static void *const vectors[] = {stack_top, reset};

/* A request to qemu, as to a debugger. */
static long ask_host(long operation, const void *argument)
{
    register long r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void write_number(uint32_t number)
{
    char text[12] = "          \n", *at = text + 10;
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    ask_host(4 /* SYS_WRITE0 */, at);
}

/* A timer that counts down. With `-icount shift=0` an instruction takes 1 ns, a tick 40. */
static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000;

static void run(void)
{
    static int32_t ids[256];
    int32_t n, chosen = 0;
    itera_init();
    itera_sampling(0, 1, 0);
    n = itera_encode(PROMPT, strlen(PROMPT), ids, 256);
    for (int32_t i = 0; i < n; i++) write_number((uint32_t)ids[i]);
    itera_read(ids, n);
    timer[2] = timer[1] = 0xffffffffu;
    timer[0] = 1;
    const uint32_t begin = timer[1];
    for (; chosen < TOKENS; chosen++)
        if ((ids[chosen] = itera_next()) < 0) break;
    const uint32_t ticks = begin - timer[1];
    for (int32_t i = 0; i < chosen; i++) write_number((uint32_t)ids[i]);
    ask_host(4, "instructions ");
    write_number((uint32_t)(40ull * ticks / (uint32_t)(chosen ? chosen : 1)));
}

static void reset(void)
{
    *(volatile uint32_t *)0xe000ed88 |= 0xf << 20; /* turns the floating-point unit on */
    __asm__ volatile("dsb; isb");
    memcpy(data_begin, data_load, (size_t)(data_end - data_begin));
    memset(bss_begin, 0, (size_t)(bss_end - bss_begin));
    run();
    ask_host(0x18 /* SYS_EXIT */, (const void *)0x20026 /* without an error */);
    for (;;) continue;
}
