// SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only
/*
 * What of an interface's traffic is the engine's: packets to the addresses it owns, and the address resolution for
 * them; or, on an address that the kernel keeps, TCP to a range of local ports. Everything else goes to the kernel
 * untouched.
 *
 * Structures shared with program.rs have fixed-width members in host byte order.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define RANGES_MAX 64
#define QUEUES_MAX 256
/* Frames of a queue that one call sends. */
#define LIVE_FRAMES 512
#define LIVE_OCTETS 2040

struct range4 {
	__u32 first;
	__u32 last;
};

struct range6 {
	__u64 first_high;
	__u64 first_low;
	__u64 last_high;
	__u64 last_low;
};

struct config {
	/* What precedes a frame that is to be sent, so that nothing that arrives is taken for one; 0: none is sent. */
	__u64 live_key;
	/* What a stamp of the arrival has beside it, which tells it from what was there before; 0: none is given. */
	__u64 stamp_key;
	/* 1: the kernel keeps the addresses, only TCP to port_first..=port_last is ours. */
	__u32 shared;
	__u32 port_first;
	__u32 port_last;
	/* 802.1Q VLAN identifier; 0: untagged frames. */
	__u32 vlan_id;
	__u32 range4_count;
	__u32 range6_count;
	struct range4 range4[RANGES_MAX];
	struct range6 range6[RANGES_MAX];
};

enum counter {
	COUNTER_PASSED,
	COUNTER_REDIRECTED,
	COUNTER_NO_SOCKET,
	COUNTER_COUNT,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct live_frame {
	__u32 len;
	__u32 reserved;
	__u8 octets[LIVE_OCTETS];
};

/* Which frame is next; a line of the cache for each queue. */
struct live_cursor {
	__u32 next;
	__u32 reserved[15];
};

/* The metadata of an empty frame: whose it is, and which queue's next frame it is to become. */
struct live_ticket {
	__u64 key;
	__u64 queue;
};

/* LIVE_FRAMES and a cursor for each queue: as many as the loader says. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct live_frame);
} live_frames SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct live_cursor);
} live_cursors SEC(".maps");

struct vlan_tag {
	__be16 tci;
	__be16 protocol;
};

/* <linux/icmp.h> and <linux/if_arp.h> drag in the C library's sockets, so these are spelled out. */
struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 rest;
};

/* RFC 826 for IPv4 over Ethernet. */
struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
};

/* RFC 4861, sections 4.3 and 4.4: both messages have the target at the same place. */
struct neighbor_message {
	struct icmp_header header;
	struct in6_addr target;
};

#define ARP_REPLY 2
#define ICMP_DESTINATION_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define ICMPV6_DESTINATION_UNREACHABLE 1
#define ICMPV6_PARAMETER_PROBLEM 4
#define ND_NEIGHBOR_SOLICITATION 135
#define ND_NEIGHBOR_ADVERTISEMENT 136

/* Whether a T can be read at p. */
#define FITS(p, data_end) ((void *)((p) + 1) <= (data_end))

static __always_inline __u32 read_be32(const __u8 *octets)
{
	return (__u32)octets[0] << 24 | (__u32)octets[1] << 16 | (__u32)octets[2] << 8 | octets[3];
}

/*
 * Without CAP_PERFMON the verifier takes pointers plus constants only. The compiler must not make a base and an index of
 * a pointer that is stepped through an array.
 */
#define STEPPED(pointer) asm volatile("" : "+r"(pointer))

/*
 * The ranges are walked without a branch on what they hold: each one would be a way more for the verifier to follow, and
 * without CAP_PERFMON it follows the ones that speculation takes, too. The walks are functions for the same reason: one
 * that is not static is followed once, not from every place that calls it.
 */
static __always_inline const struct config *configuration(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline __u64 less(__u64 a, __u64 b)
{
	return ((~a & b) | ((~a | b) & (a - b))) >> 63;
}

static __always_inline __u64 less128(__u64 a_high, __u64 a_low, __u64 b_high, __u64 b_low)
{
	return less(a_high, b_high) | (~less(b_high, a_high) & less(a_low, b_low) & 1);
}

__noinline int in_ranges4(__u32 address)
{
	const struct config *cfg = configuration();
	__u64 found = 0;

	if (!cfg)
		return 0;

	const struct range4 *range = cfg->range4;

	for (__u32 i = 0; i < RANGES_MAX; i++) {
		if (i >= cfg->range4_count)
			break;
		found |= ~(less(address, range->first) | less(range->last, address)) & 1;
		/* Not even after the last may it point beyond. */
		if (i + 1 == RANGES_MAX)
			break;
		range++;
		STEPPED(range);
	}
	return found != 0;
}

__noinline int in_ranges6(__u64 high, __u64 low)
{
	const struct config *cfg = configuration();
	__u64 found = 0;

	if (!cfg)
		return 0;

	const struct range6 *range = cfg->range6;

	for (__u32 i = 0; i < RANGES_MAX; i++) {
		if (i >= cfg->range6_count)
			break;

		__u64 before = less128(high, low, range->first_high, range->first_low);
		__u64 after = less128(range->last_high, range->last_low, high, low);

		found |= ~(before | after) & 1;
		/* Not even after the last may it point beyond. */
		if (i + 1 == RANGES_MAX)
			break;
		range++;
		STEPPED(range);
	}
	return found != 0;
}

static __always_inline int owns4(__be32 address)
{
	return in_ranges4(bpf_ntohl(address));
}

static __always_inline int owns6(const struct in6_addr *address)
{
	__u64 high = (__u64)bpf_ntohl(address->in6_u.u6_addr32[0]) << 32 | bpf_ntohl(address->in6_u.u6_addr32[1]);
	__u64 low = (__u64)bpf_ntohl(address->in6_u.u6_addr32[2]) << 32 | bpf_ntohl(address->in6_u.u6_addr32[3]);

	return in_ranges6(high, low);
}

/*
 * What follows an IPv4 header of so many words of 32 bits, 15 at most. No loop: what bounds it would not bound the ways
 * that speculation takes through it.
 */
static __always_inline void *after_ipv4(void *header, __u32 words)
{
	void *payload = header + sizeof(struct iphdr);

#define ONE_MORE_THAN(n)            \
	if (words <= (n))           \
		return payload;     \
	payload += 4;               \
	STEPPED(payload)

	ONE_MORE_THAN(5);
	ONE_MORE_THAN(6);
	ONE_MORE_THAN(7);
	ONE_MORE_THAN(8);
	ONE_MORE_THAN(9);
	ONE_MORE_THAN(10);
	ONE_MORE_THAN(11);
	ONE_MORE_THAN(12);
	ONE_MORE_THAN(13);
	ONE_MORE_THAN(14);
#undef ONE_MORE_THAN
	return payload;
}

static __always_inline int owns_port(const struct config *cfg, __be16 port)
{
	__u32 host_order = bpf_ntohs(port);

	return host_order >= cfg->port_first && host_order <= cfg->port_last;
}

static __always_inline int ours_arp(const struct config *cfg, void *at, void *data_end)
{
	struct arp_ipv4 *arp = at;

	if (cfg->shared || !FITS(arp, data_end) || arp->protocol != bpf_htons(ETH_P_IP))
		return 0;
	if (in_ranges4(read_be32(arp->target_ip)))
		return 1;
	/* Somebody else answers for an address of ours: RFC 5227's conflict. */
	return arp->operation == bpf_htons(ARP_REPLY) && in_ranges4(read_be32(arp->sender_ip));
}

/* An ICMP error is ours if the packet it quotes left from one of our ports (RFC 792, RFC 1122 section 3.2.2). */
static __always_inline int ours_icmp_error4(const struct config *cfg, void *at, void *data_end)
{
	struct icmp_header *icmp = at;

	if (!FITS(icmp, data_end))
		return 0;
	if (icmp->type != ICMP_DESTINATION_UNREACHABLE && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER_PROBLEM)
		return 0;

	struct iphdr *quoted = (void *)(icmp + 1);

	if (!FITS(quoted, data_end) || quoted->protocol != IPPROTO_TCP || !owns4(quoted->saddr))
		return 0;

	__be16 *source_port = after_ipv4(quoted, quoted->ihl);

	return FITS(source_port, data_end) && owns_port(cfg, *source_port);
}

static __always_inline int ours_ipv4(const struct config *cfg, void *at, void *data_end)
{
	struct iphdr *ip = at;

	if (!FITS(ip, data_end) || !owns4(ip->daddr))
		return 0;
	if (!cfg->shared)
		return 1;
	/* A fragment's ports cannot be known; the kernel reassembles for its own address. */
	if (ip->frag_off & bpf_htons(0x3fff))
		return 0;

	void *payload = after_ipv4(ip, ip->ihl);

	if (ip->protocol == IPPROTO_ICMP)
		return ours_icmp_error4(cfg, payload, data_end);
	if (ip->protocol != IPPROTO_TCP)
		return 0;

	struct tcphdr *tcp = payload;

	return FITS(tcp, data_end) && owns_port(cfg, tcp->dest);
}

static __always_inline int ours_icmp_error6(const struct config *cfg, void *at, void *data_end)
{
	struct icmp_header *icmp = at;

	if (!FITS(icmp, data_end) || icmp->type < ICMPV6_DESTINATION_UNREACHABLE || icmp->type > ICMPV6_PARAMETER_PROBLEM)
		return 0;

	struct ipv6hdr *quoted = (void *)(icmp + 1);

	if (!FITS(quoted, data_end) || quoted->nexthdr != IPPROTO_TCP || !owns6(&quoted->saddr))
		return 0;

	__be16 *source_port = (void *)(quoted + 1);

	return FITS(source_port, data_end) && owns_port(cfg, *source_port);
}

static __always_inline int ours_ipv6(const struct config *cfg, void *at, void *data_end)
{
	struct ipv6hdr *ip = at;

	if (!FITS(ip, data_end))
		return 0;

	int to_us = owns6(&ip->daddr);

	if (!cfg->shared) {
		if (to_us)
			return 1;
		/* Solicitations go to a multicast group (RFC 4861 section 7.2.2): the target tells whose they are. */
		struct neighbor_message *message = (void *)(ip + 1);

		if (ip->nexthdr != IPPROTO_ICMPV6 || !FITS(message, data_end))
			return 0;
		if (message->header.type != ND_NEIGHBOR_SOLICITATION &&
		    message->header.type != ND_NEIGHBOR_ADVERTISEMENT)
			return 0;
		return owns6(&message->target);
	}
	if (!to_us)
		return 0;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return ours_icmp_error6(cfg, ip + 1, data_end);
	if (ip->nexthdr != IPPROTO_TCP)
		return 0;

	struct tcphdr *tcp = (void *)(ip + 1);

	return FITS(tcp, data_end) && owns_port(cfg, tcp->dest);
}

static __always_inline int ours(const struct config *cfg, void *data, void *data_end)
{
	struct ethhdr *ethernet = data;

	if (!FITS(ethernet, data_end))
		return 0;

	__be16 protocol = ethernet->h_proto;
	void *payload = ethernet + 1;

	if (protocol != bpf_htons(ETH_P_8021Q)) {
		if (cfg->vlan_id)
			return 0;
	} else {
		/* A tag with a priority and no identifier counts as none. */
		struct vlan_tag *tag = payload;

		if (!FITS(tag, data_end))
			return 0;
		if ((bpf_ntohs(tag->tci) & 0x0fff) != cfg->vlan_id)
			return 0;
		protocol = tag->protocol;
		payload = tag + 1;
	}
	switch (protocol) {
	case bpf_htons(ETH_P_IP):
		return ours_ipv4(cfg, payload, data_end);
	case bpf_htons(ETH_P_IPV6):
		return ours_ipv6(cfg, payload, data_end);
	case bpf_htons(ETH_P_ARP):
		return ours_arp(cfg, payload, data_end);
	default:
		return 0;
	}
}

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*value += 1;
}

/* The metadata of a frame for a socket: when it arrived, CLOCK_MONOTONIC in nanoseconds. */
struct stamp {
	__u64 key;
	__u64 at;
};

/*
 * It takes the place before the frame. Where that is taken by metadata of somebody else, or the driver has no room for
 * any, the frame goes without.
 */
static __always_inline void stamp(struct xdp_md *ctx, __u64 key)
{
	if (FITS((__u8 *)(long)ctx->data_meta, (void *)(long)ctx->data))
		return;
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct stamp)))
		return;

	struct stamp *stamp = (void *)(long)ctx->data_meta;

	if (!FITS(stamp, (void *)(long)ctx->data))
		return;
	stamp->key = key;
	stamp->at = bpf_ktime_get_ns();
}

static __always_inline int receive(struct xdp_md *ctx, const struct config *cfg)
{
	if (!cfg || !ours(cfg, (void *)(long)ctx->data, (void *)(long)ctx->data_end)) {
		count(COUNTER_PASSED);
		return XDP_PASS;
	}

	/* The flags are the verdict for a queue without a socket. */
	long verdict = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);

	count(verdict == XDP_REDIRECT ? COUNTER_REDIRECTED : COUNTER_NO_SOCKET);
	if (verdict == XDP_REDIRECT && cfg->stamp_key)
		stamp(ctx, cfg->stamp_key);
	return verdict;
}

SEC("xdp")
int syncline(struct xdp_md *ctx)
{
	return receive(ctx, configuration());
}

/* The ticket of a frame that comes from the engine, to be sent; none of one that arrived. */
static __always_inline struct live_ticket *ticket(struct xdp_md *ctx, const struct config *cfg)
{
	struct live_ticket *ticket = (void *)(long)ctx->data_meta;

	if (!FITS(ticket, (void *)(long)ctx->data) || !cfg->live_key || ticket->key != cfg->live_key)
		return 0;
	return ticket;
}

/* An empty frame becomes the next one of the queue, and leaves. */
static __always_inline int transmit(struct xdp_md *ctx, __u32 queue)
{
	struct live_cursor *cursor = bpf_map_lookup_elem(&live_cursors, &queue);

	if (!cursor)
		return XDP_DROP;

	__u32 at = cursor->next++;

	if (at >= LIVE_FRAMES)
		return XDP_DROP;
	at += queue * LIVE_FRAMES;

	struct live_frame *frame = bpf_map_lookup_elem(&live_frames, &at);

	if (!frame)
		return XDP_DROP;

	__u32 len = frame->len;

	if (len < ETH_HLEN || len > LIVE_OCTETS)
		return XDP_DROP;
	if (bpf_xdp_adjust_meta(ctx, sizeof(struct live_ticket)))
		return XDP_DROP;
	if (bpf_xdp_adjust_tail(ctx, (int)len - (int)bpf_xdp_get_buff_len(ctx)))
		return XDP_DROP;
	if (bpf_xdp_store_bytes(ctx, 0, frame->octets, len))
		return XDP_DROP;
	return XDP_TX;
}

/* The same for a device that also sends by this program (Linux 5.18, BPF_F_TEST_XDP_LIVE_FRAMES). */
SEC("xdp")
int syncline_live(struct xdp_md *ctx)
{
	const struct config *cfg = configuration();

	struct live_ticket *own = cfg ? ticket(ctx, cfg) : 0;

	if (own)
		return transmit(ctx, own->queue);
	return receive(ctx, cfg);
}

char program_license[] SEC("license") = "Dual MIT/GPL";
