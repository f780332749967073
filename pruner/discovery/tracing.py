"""Index-exact structural discovery by label propagation at ATen level.

Model.  Every index i of every dim of every parameter/buffer is an *atom* ("slot").  A traced tensor carries
*facets*: a list of (dim, vec) where vec[i] is the atom that owns index i of that dim (0 = none).  An element is
deleted iff ANY of its atoms is deleted, so a dim may carry several facets (e.g. merged heads*head_dim -> h and d).
Constraints collected while tracing:
  union(a,b)          a and b are deleted together                    (elementwise ops, contractions, batch dims)
  define(t,[f1,f2..]) t[i] is deleted iff f1[i] or f2[i] or .. is     (a facet that starts to vary along >1 dims,
                      i.e. C -> (H,D): rectangularity forces c = h OR d)
Groups = primitive classes (no incoming define edge) + everything reachable from them.
"""
import numpy as np, torch, collections, itertools
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

aten = torch.ops.aten
Tn = torch.Tensor
SHAPE_OPS = {'view','_unsafe_view','reshape','permute','transpose','t','unsqueeze','squeeze','expand','slice','select','split',
  'split_with_sizes','chunk','unbind','repeat','unfold','alias','detach','clone','flip','roll','movedim','narrow','diagonal',
  'constant_pad_nd','as_strided','_reshape_alias','flatten','contiguous','lift_fresh','squeeze_copy','numpy_T','unflatten','tile',
  '_to_copy','tril','triu','expand_as','view_as','diag_embed','repeat_interleave','reshape_as','unsafe_split','unsafe_chunk'}
RED_OPS = {'sum','mean','amax','amin','var','std','prod','all','any','logsumexp','norm','linalg_vector_norm','var_mean','std_mean',
  'argmax','argmin','max','min','count_nonzero','median','nansum'}
ALONG = {'_softmax','_log_softmax','softmax','log_softmax','cumsum','cumprod','logcumsumexp','cummax','_safe_softmax','_softmax_backward_data'}
UNIFORM = {'zeros','ones','full','empty','scalar_tensor','new_zeros','new_ones','new_full','new_empty','zeros_like','ones_like','full_like',
  'empty_like','fill','zero','empty_strided','new_empty_strided','empty_permuted'}
FACTORY = {'arange','linspace','eye','tril_indices','triu_indices','randn','rand','randint','randperm','_efficientzerotensor','bernoulli','randn_like','rand_like','logspace'}

class St:
    __slots__ = ('f','kind','par','space')
    def __init__(s, f=(), kind='dyn', par=False, space=None): s.f, s.kind, s.par, s.space = list(f), kind, par, space
NONE = St(kind='const')

def pattern(v):                       # canonical first-occurrence pattern
    _, first, inv = np.unique(v, return_index=True, return_inverse=True)
    return first[inv.reshape(-1)]

class Tracer(TorchDispatchMode):
    def __init__(s, model, slot_buffers=True):
        super().__init__()
        s.n = 1; s.slots = []            # (name, dim, base, size)
        s.ua, s.ub = [], []              # union edges
        s.recs = []                      # (target vec, [factor vecs])
        s.frozen, s.touched, s.consumer, s.producer, s.batch = [], [], [], [], []
        s.log = collections.Counter(); s.opcount = collections.Counter(); s.unknown = collections.Counter()
        s.keep = []; s.shadow = {}; s.meta = next(model.parameters()).device.type == 'meta'
        named = list(model.named_parameters())
        if slot_buffers: named += [(n, b) for n, b in model.named_buffers() if b.is_floating_point()]   # int/bool buffers stay constants
        for nm, p in named:
            f = []
            for d, sz in enumerate(p.shape):
                s.slots.append((nm, d, s.n, sz)); f.append((d, np.arange(s.n, s.n+sz))); s.n += sz
            s.set(p, St([x for x in f if len(x[1]) > 1], 'dyn', par=True))
    # ---- state -------------------------------------------------------------------------------------------
    def set(s, t, st):
        t._lp = (id(s), st); s.keep.append(t) if st.par and isinstance(t, torch.nn.Parameter) else None
    def get(s, t):
        if not isinstance(t, Tn): return NONE
        q = getattr(t, '_lp', None)
        return q[1] if q is not None and q[0] == id(s) else NONE
    def fresh(s, k):
        r = np.arange(s.n, s.n+k); s.n += k; return r
    # ---- constraints -------------------------------------------------------------------------------------
    def union(s, a, b):
        a, b = np.broadcast_arrays(a, b); m = (a != 0) & (b != 0) & (a != b)
        if m.any(): s.ua.append(a[m]); s.ub.append(b[m])
    def define(s, t, fs):
        m = t != 0
        s.recs.append((t[m], [f[m] for f in fs]))
    def match(s, fx, fy):
        """reconcile two facet-vector lists living on the same axis; returns merged list"""
        if not fx: return list(fy)
        if not fy: return list(fx)
        if len(fx[0]) != len(fy[0]):
            s.log['length_mismatch'] += 1; s.drop(list(fx) + list(fy), 'length'); return []
        fy = list(fy); out, rest = [], []
        for same in (lambda a, b: np.array_equal(a, b), lambda a, b: np.array_equal(a == 0, b == 0) and np.array_equal(pattern(a), pattern(b))):
            rest = []
            for x in fx:
                j = next((j for j, y in enumerate(fy) if same(x, y)), None)
                if j is None: rest.append(x)
                else:
                    y = fy.pop(j); s.union(x, y); out.append(np.where(x != 0, x, y))
            fx = rest
        if not rest or not fy: return out + rest + fy
        # a finer facet vs a subset of coarser ones: finer := OR(coarser [, residual position inside the block])
        for A, B in ((rest, fy), (fy, rest)):
            for i, x in enumerate(A):
                for many in (c for r in range(len(B), 0, -1) for c in itertools.combinations(range(len(B)), r)):
                    g = s.refine(x, [B[k] for k in many])
                    if g is not None: return out + [B[k] for k in many] + s.match(A[:i] + A[i+1:] + g, [B[k] for k in range(len(B)) if k not in many])
        if len(rest) == 1 and len(fy) == 1:
            x, y = rest[0], fy[0]; s.log['union_diff_pattern'] += not np.array_equal(pattern(x), pattern(y))
            s.union(x, y); return out + [np.where(x != 0, x, y)]
        s.log['match_fallback_union'] += 1
        for x in rest + fy[1:]: s.union(x, fy[0])
        return out + [fy[0]]
    def refine(s, x, many):
        live = (x != 0) & np.any([m != 0 for m in many], axis=0)               # 0 = 'no atom' is a legal factor value
        if not live.any() or not np.array_equal(live, x != 0): return None
        ux, rep = np.unique(x[live], return_index=True); pos = np.flatnonzero(live)[np.sort(rep)]   # one representative per x atom
        if len(np.unique(np.stack([x[live]] + [m[live] for m in many], 1), axis=0)) != len(ux): return None   # not functions of x
        _, blk, cnt = np.unique(np.stack([m[pos] for m in many], 1), axis=0, return_inverse=True, return_counts=True)
        if not (cnt == cnt[0]).all() or len(cnt) == 1 or (len(many) == 1 and cnt[0] == 1): return None
        if cnt[0] == 1: s.define(x[pos], [m[pos] for m in many]); return []
        order = np.argsort(blk.reshape(-1), kind='stable'); rank = np.empty(len(pos), int); rank[order] = np.tile(np.arange(cnt[0]), len(cnt))
        g = s.fresh(cnt[0])[rank]; s.define(x[pos], [m[pos] for m in many] + [g])
        G = np.zeros(s.n, int); G[x[pos]] = g
        return [np.where(x != 0, G[x], 0)]
    def freeze(s, v, why): s.frozen.append(np.unique(v[v != 0])); s.log['freeze:'+why] += 1
    # ---- facets <-> full label tensors ------------------------------------------------------------------
    def full(s, fac, shape):
        d, v = fac; sh = [1]*len(shape); sh[d] = len(v)
        return torch.from_numpy(v).view(sh).expand(shape)
    def norm(s, t):
        """full label tensor -> list of single-dim facets (factorising if labels vary along >1 dims)"""
        for d in range(t.dim()):
            if t.size(d) > 1 and t.stride(d) == 0: t = t.narrow(d, 0, 1)
        if t.numel() == 0 or not t.any(): return []
        V = []
        for d in range(t.dim()):
            if t.size(d) == 1: continue
            m = t.amax(d, keepdim=True)
            if bool(((t == m) | (t == 0)).all()): t = m
            else: V.append(d)
        if not V:
            s.freeze(t.numpy().reshape(-1), 'const'); return []
        if len(V) == 1: return [(V[0], t.numpy().reshape(-1).copy())]
        facs, recf = [], []
        for d in V:
            a = s.fresh(t.size(d)); facs.append((d, a)); recf.append(s.full((d, a), t.shape).reshape(-1).numpy())
        s.define(t.reshape(-1).numpy(), recf); s.log['factor%d' % len(V)] += 1
        return facs
    def group(s, st):
        g = collections.defaultdict(list)
        for d, v in st.f: g[d].append(v)
        return g
    def touch_check(s, d, R, cur, infos, name):
        for t, st, g in infos:
            dd = d - (R - t.dim())
            if dd >= 0 and t.size(dd) > 1 and d not in g and st.kind != 'uniform' and t.dtype != torch.bool:
                for v in cur: s.touched.append((np.unique(v), st.kind + ':' + name))
    # ---- op semantics ------------------------------------------------------------------------------------
    def elementwise(s, ts, oshape, name=''):
        R = len(oshape); acc = {}; uni = all(s.get(t).kind == 'uniform' or t.numel() == 1 for t in ts)
        kind = 'dyn' if any(s.get(t).kind == 'dyn' for t in ts) else 'uniform' if uni else 'const'
        infos = []
        for t in ts:
            st = s.get(t); g = {d + R - t.dim(): v for d, v in s.group(st).items()}
            infos.append((t, st, g))
        for d in range(R):
            cur = None
            for t, st, g in infos:
                if d in g: cur = g[d] if cur is None else s.match(cur, g[d])
            if cur is None: continue
            acc[d] = cur
            s.touch_check(d, R, cur, infos, name)
        return St([(d, v) for d, vs in acc.items() for v in vs], kind, space=next((s.get(t).space for t in ts if s.get(t).space is not None), None))
    def contract(s, a, ga, b, gb, da, db, name):
        va, vb = ga.get(da, []), gb.get(db, [])
        sa, sb = s.get(a), s.get(b)
        if va and vb: s.match(va, vb)
        elif va or vb:
            o = sb if va else sa
            if a.size(da) > 1 and o.kind != 'uniform':
                for v in (va or vb): s.touched.append((np.unique(v), o.kind + ':' + name))
        if sa.par: s.consumer += va
        if sb.par: s.consumer += vb
    def matmul(s, a, b, name):               # batched [.., M,K] x [.., K,N]
        ga, gb = s.group(s.get(a)), s.group(s.get(b)); ra, rb = a.dim(), b.dim(); out = []
        s.contract(a, ga, b, gb, ra-1, max(rb-2, 0), name)
        nb = max(ra, rb) - 2
        for d in range(nb):
            m = s.match(ga.get(d, []), gb.get(d, []))
            s.batch += m
            out += [(d, v) for v in m]
        if ra > 1: out += [(ra-2, v) for v in ga.get(ra-2, [])]
        if rb > 1: out += [(ra-1, v) for v in gb.get(rb-1, [])]
        return St(out, 'dyn')
    def shape_op(s, func, t, args, kwargs, outs):
        st = s.get(t); kw = {k: v for k, v in (kwargs or {}).items() if k not in ('dtype','device','layout','pin_memory','memory_format','non_blocking')}
        nm = func._schema.name.split('::')[1]
        if nm in ('_to_copy','clone','alias','detach','contiguous','lift_fresh','tril','triu','lift_fresh_copy'):
            return [St(st.f, st.kind, st.par and nm not in ('tril','triu'), st.space)]
        res = [[] for _ in outs]
        for fac in st.f:
            L = s.full(fac, t.shape)
            if nm in ('view','_unsafe_view','_reshape_alias'): r = L.reshape(outs[0].shape)
            elif nm == 'as_strided':
                o = outs[0]; mem = torch.zeros(1 + max(x.storage_offset() + sum((z - 1) * q for z, q in zip(x.shape, x.stride())) for x in (o, t)), dtype=torch.long)
                mem.as_strided(t.shape, t.stride(), t.storage_offset()).copy_(L); r = mem.as_strided(o.shape, o.stride(), o.storage_offset())
            else: r = func(L, *args[1:], **kw)
            r = [r] if isinstance(r, Tn) else list(r)
            for i, x in enumerate(r): res[i] += s.norm(x)
        return [St(f, st.kind, st.par, st.space) for f in res]
    def reduce(s, t, dims, keep, nout):
        dims = set(range(t.dim())) if dims is None or (isinstance(dims, (list, tuple)) and not dims) else {d % max(1, t.dim()) for d in ([dims] if isinstance(dims, int) else dims)}
        f = []
        for d, v in s.get(t).f:
            if d in dims: continue
            f.append((d if keep else d - sum(x < d for x in dims), v))
        return [St(f, s.get(t).kind) for _ in range(nout)]
    def drop(s, vs, why):
        for v in vs: s.freeze(v, why)
    # ---- dispatch ------------------------------------------------------------------------------------------
    def __torch_dispatch__(s, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        nm = func._schema.name.split('::')[1]; s.opcount[nm] += 1
        # constant shadows: on meta, values of non-parameter tensors (masks, positions, ids) are computed for real on CPU
        sh = None
        if s.meta:
            tin = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tn)]
            if all(id(a) in s.shadow or a.device.type == 'cpu' for a in tin):
                cv = lambda a: s.shadow[id(a)][1] if id(a) in s.shadow else a
                ka = {k: (torch.device('cpu') if isinstance(v, torch.device) else v) for k, v in kwargs.items()}
                sh = func(*tree_map_only(Tn, cv, args), **tree_map_only(Tn, cv, ka))
                if nm in ('_local_scalar_dense', 'is_nonzero', 'equal', 'item'): return sh
        with torch.no_grad():
            out = func(*args, **kwargs)
        if sh is not None:
            for o, v in zip(tree_leaves(out), tree_leaves(sh)):
                if isinstance(o, Tn) and o.device.type == 'meta': s.shadow[id(o)] = (o, v)
        outs = [o for o in tree_leaves(out) if isinstance(o, Tn)]
        if not outs: return out
        sch = func._schema; inplace = sch.is_mutable and outs and isinstance(args[0] if args else None, Tn) and outs[0] is args[0]
        base = nm.rstrip('_') if inplace else nm
        ts = [a for a in tree_leaves((args, {k: v for k, v in kwargs.items() if k != 'out'})) if isinstance(a, Tn)]
        sts = s.handle(func, base, args, kwargs, ts, outs, inplace)
        for o, st in zip(outs, sts):
            if inplace: s.writeback(o, st); st.par = s.get(o).par
            s.set(o, st)
        return out
    def writeback(s, t, st):
        b = t._base
        if b is None or not st.f: return
        o0 = b.storage_offset(); n = o0 + 1 + sum((z - 1) * st_ for z, st_ in zip(b.shape, b.stride())) if b.numel() else 0
        mem = torch.arange(n); idx = mem.as_strided(t.shape, t.stride(), t.storage_offset()); bidx = mem.as_strided(b.shape, b.stride(), o0)
        bst = s.get(b); new, old = collections.defaultdict(list), s.group(s.get(b))
        for fac in st.f:
            L = torch.zeros(n, dtype=torch.long); L[idx.reshape(-1)] = s.full(fac, t.shape).reshape(-1)
            for d, v in s.norm(L[bidx]): new[d].append(v)
        res = [(d, v) for d in set(old) | set(new) for v in s.match(old.get(d, []), new.get(d, []))]
        s.set(b, St(res, 'dyn', bst.par))
    def handle(s, func, nm, args, kw, ts, outs, inplace):
        S = [s.get(t) for t in ts]; anyf = any(x.f for x in S); anysp = any(x.space is not None for x in S)
        if nm in UNIFORM:
            return [St(kind='uniform') for _ in outs]
        if nm in FACTORY or not ts: return [St(kind='const') for _ in outs]
        kind = 'dyn' if any(x.kind == 'dyn' for x in S) else 'const'
        if nm == 'copy': return [St(s.elementwise([args[1]], outs[0].shape).f, s.get(args[1]).kind)]
        if not anyf and not anysp:
            if all(x.kind == 'uniform' for x in S) and nm not in ('cumsum',): kind = 'uniform'
            return [St(kind=kind) for _ in outs]
        if nm in SHAPE_OPS and not (nm == 'repeat_interleave'): return s.shape_op(func, ts[0], args, kw, outs)
        if nm in ('mm','bmm'): return [s.matmul(args[0], args[1], nm)]
        if nm in ('addmm','baddbmm','addbmm'):
            mmst = s.matmul(args[1], args[2], nm); return [s.merge([mmst, args[0]], outs[0])]
        if nm == 'linalg_solve_triangular': return [s.matmul(args[0], args[1], nm)]
        if nm == 'view_as_complex':
            last = ts[0].dim() - 1; s.drop([v for d, v in S[0].f if d == last], 'complex'); return [St([x for x in S[0].f if x[0] != last], S[0].kind)]
        if nm == 'view_as_real': return [St(S[0].f, S[0].kind)]
        if nm in ('mv','dot'): return [s.matmul(args[0], args[1], nm)]
        if nm in ('linear',):
            g = s.group(s.get(args[1])); w = args[1]; gx = s.group(s.get(args[0])); d = args[0].dim()-1
            s.contract(args[0], gx, w, g, d, 1, nm)
            st = St([(k, v) for k, vs in gx.items() if k != d for v in vs] + [(d, v) for v in g.get(0, [])])
            return [s.merge([st] + [a for a in args[2:3] if a is not None], outs[0])]
        if nm in ('cat','concat'): return [s.cat(args[0], args[1] if len(args) > 1 else kw.get('dim', 0), outs[0])]
        if nm == 'stack':
            d = args[1] if len(args) > 1 else kw.get('dim', 0); d %= outs[0].dim()
            L = [St([(x + (x >= d), v) for x, v in s.get(t).f], s.get(t).kind) for t in args[0]]
            return [s.cat([t.unsqueeze(d) for t in args[0]], d, outs[0], L)]
        if nm in ('embedding',):
            w, ids = args[0], args[1]; g = s.group(s.get(w)); sp_ = s.get(ids).space
            if sp_ is not None and g.get(0): s.match(g[0], sp_)
            else: s.touched += [(v, 'ids:embedding') for v in g.get(0, [])]
            return [St([(outs[0].dim()-1, v) for v in g.get(1, [])] + list(s.get(ids).f))]
        if nm in ('native_layer_norm','layer_norm','native_group_norm','_fused_rms_norm','rms_norm','native_batch_norm','_native_batch_norm_legit_no_training'):
            if nm == 'native_group_norm':
                x, w, b = args[0], args[1], args[2]; C, G = args[4], args[6]
                st = s.get(x); g = s.group(st).get(1, [])
                for p in (w, b):
                    if p is not None: g = s.match(g, s.group(s.get(p)).get(0, []))
                f = []
                for v in g:                                  # rectangularity of (G, C/G)
                    fs = s.norm(torch.from_numpy(v).view(G, C//G)); 
                    f += [torch.from_numpy(u).view(-1, 1).expand(G, C//G).reshape(-1).numpy() if d == 0 else torch.from_numpy(u).view(1, -1).expand(G, C//G).reshape(-1).numpy() for d, u in fs]
                return [St([(1, v) for v in f] + [x for x in st.f if x[0] != 1])] + [St() for _ in outs[1:]]
            x = args[0]; ps = [a for a in tree_leaves(args[1:]) if isinstance(a, Tn) and a.dim() >= 1]
            return [s.elementwise([x] + ps, outs[0].shape, nm)] + [s.elementwise([], o.shape) if False else St() for o in outs[1:]]
        if nm in ALONG: return [St(S[0].f, S[0].kind) for _ in outs]
        if nm in ('topk','sort','argsort','kthvalue'):
            t = args[0]; d = (args[2] if nm == 'topk' and len(args) > 2 else kw.get('dim', args[1] if nm != 'topk' and len(args) > 1 and isinstance(args[1], int) else -1)) % max(1, t.dim())
            vs = [v for x, v in S[0].f if x == d]; rest = [(x, v) for x, v in S[0].f if x != d]
            return [St(rest, 'dyn', space=(vs or None) if (o.dtype == torch.long) else None) for o in outs]
        if nm in RED_OPS and not (nm in ('max','min') and len(ts) > 1):
            a = list(args[1:]); 
            if nm in ('norm','linalg_vector_norm') : dims = args[2] if len(args) > 2 else kw.get('dim'); keep = args[3] if len(args) > 3 else kw.get('keepdim', False)
            elif nm in ('var','std','var_mean','std_mean'): dims = args[1] if len(args) > 1 and not isinstance(args[1], bool) else kw.get('dim'); keep = kw.get('keepdim', args[3] if len(args) > 3 else False)
            else: dims = args[1] if len(args) > 1 else kw.get('dim'); keep = args[2] if len(args) > 2 else kw.get('keepdim', False)
            if outs[0].dim() == 0: return [St() for _ in outs]
            r = s.reduce(ts[0], dims, keep, len(outs))
            if nm in ('argmax','argmin','max','min') and isinstance(dims, int):
                vs = [v for x, v in S[0].f if x == dims % ts[0].dim()]
                for o, st in zip(outs, r):
                    if o.dtype == torch.long: st.space = vs or None
            return r
        if nm in ('index','index_put','_index_put_impl','_unsafe_index'):
            x, idx = args[0], list(args[1]); st = s.get(x)
            if nm == 'index' or nm == '_unsafe_index': return [s.index(x, idx, st, outs[0])]
            v = args[2]; sub = s.get(v); ind = [i for i in idx]
            if all(i is None or i.dtype != torch.bool for i in ind) and sub.f:
                k = [i for i in range(x.dim()) if i >= len(ind) or ind[i] is None]; gx = s.group(st)
                res = {d: vs for d, vs in gx.items()}
                for d, u in sub.f:                         # align trailing non-indexed dims
                    t = d - v.dim()
                    if -t <= len(k) and x.size(k[t]) == len(u) and k[t] - x.dim() == t: res[k[t]] = s.match(res.get(k[t], []), [u])
                return [St([(d, u) for d, us in res.items() for u in us], 'dyn')]
            if x.shape == v.shape: return [s.elementwise([x, v], x.shape, nm)]
            return [St(st.f, 'dyn')]
        if nm in ('index_select',):
            x, d, i = args[:3]; return [s.index(x, [None]*(d % x.dim()) + [i], s.get(x), outs[0])]
        if nm == 'gather':
            x, d, i = args[:3]; d %= x.dim(); g = s.group(s.get(x)); gi = s.group(s.get(i)); f = []; sp_ = s.get(i).space
            if d in g:
                if sp_ is not None: s.match(g[d], sp_)
                elif s.get(i).kind == 'dyn' or i.device.type == 'meta': s.drop(g[d], 'gather_dyn')
                else: f += [y for v in g[d] for y in s.norm(torch.gather(s.full((d, v), x.shape), d, i))]; g.pop(d)
            for k in set(g) | set(gi):
                if k == d: f += [(k, v) for v in gi.get(k, [])]
                elif i.size(k) == x.size(k): f += [(k, v) for v in s.match(g.get(k, []), gi.get(k, []))]
            return [St(f)]
        if nm in ('scatter','scatter_add','scatter_reduce','index_add','index_copy','index_fill','masked_scatter'):
            x, d = args[0], args[1]; 
            if nm == 'masked_scatter': return [St(S[0].f or S[-1].f)]
            d %= max(1, x.dim()); i = args[2]; src = args[3] if len(args) > 3 and isinstance(args[3], Tn) else None
            g = s.group(s.get(x)); sp_ = s.get(i).space; f = []
            gs = s.group(s.get(src)) if src is not None else {}
            if nm.startswith('scatter'):
                gi = s.group(s.get(i))
                for k in gi: gs[k] = s.match(gs.get(k, []), gi[k])
            if sp_ is not None: g[d] = s.match(g.get(d, []), sp_)
            for k in set(g) | set(gs):
                if k == d: f += [(k, v) for v in g.get(k, [])]
                else: f += [(k, v) for v in s.match(g.get(k, []), [u for u in gs.get(k, []) if len(u) == x.size(k)])]
            return [St(f)]
        if nm in ('convolution','_convolution','conv1d','conv2d','mkldnn_convolution'):
            x, w, b, G = args[0], args[1], args[2], args[-1] if nm == 'convolution' else kw.get('groups', args[-1])
            tr = args[6] if nm == 'convolution' else False
            gx, gw = s.group(s.get(x)), s.group(s.get(w)); cin = gx.get(1, [])
            if G == 1 and not tr:
                s.contract(x, gx, w, gw, 1, 1, nm); o = gw.get(0, [])
            elif not tr and w.size(0) == x.size(1) == G: o = s.match(cin, gw.get(0, []))
            elif not tr:                                     # grouped: (G, C/G) x (G, O/G)
                cut = lambda v: s.norm(torch.from_numpy(v).view(G, -1)); fi = [x for v in cin for x in cut(v)]; fo = [x for v in gw.get(0, []) for x in cut(v)]
                gg = s.match([v for d, v in fi if d == 0], [v for d, v in fo if d == 0]); s.match([v for d, v in fi if d == 1], gw.get(1, []))
                if s.get(w).par: s.consumer += gw.get(1, [])
                o = [np.repeat(v, w.size(0)//G) for v in gg] + [np.tile(v, G) for d, v in fo if d == 1]
            else: s.unknown['conv_transposed'] += 1; s.drop(cin, 'conv'); o = []
            if b is not None: o = s.match(o, s.group(s.get(b)).get(0, []))
            return [St([(0, v) for v in gx.get(0, [])] + [(1, v) for v in o])]
        if nm.startswith('_scaled_dot_product'):
            q, k, v = args[:3]; gq, gk, gv = map(lambda t: s.group(s.get(t)), (q, k, v)); f = []
            rep = lambda g, t: [np.repeat(x, q.size(1) // t.size(1)) for x in g.get(1, [])]      # enable_gqa
            m = s.match(s.match(gq.get(1, []), rep(gk, k)), rep(gv, v)); s.batch += m; s.match(gq.get(3, []), gk.get(3, []))
            return [St([(1, u) for u in m] + [(3, u) for u in gv.get(3, [])])] + [St() for _ in outs[1:]]
        if nm in ('nonzero','unique','_unique2','bincount','histc','searchsorted','bucketize','_local_scalar_dense','masked_select','is_nonzero','item','equal','multinomial'):
            return [St() for _ in outs]
        # generic elementwise fallback: output shape == broadcast of tensor inputs
        try: bs = torch.broadcast_shapes(*[t.shape for t in ts])
        except RuntimeError: bs = None
        if bs is not None and tuple(bs) == tuple(outs[0].shape):
            st = s.elementwise(ts, outs[0].shape, nm)
            return [St(st.f, st.kind, len(ts) == 1 and S[0].par and False, st.space) for _ in outs]
        s.unknown[nm] += 1
        for x in S: s.drop([v for _, v in x.f], 'unknown:' + nm)
        return [St() for _ in outs]
    def merge(s, items, out):
        f = collections.defaultdict(list); R = out.dim(); infos = []
        for it in items:
            if isinstance(it, St): g = s.group(it); infos.append((out, it, g))
            else: g = {d + R - it.dim(): v for d, v in s.group(s.get(it)).items()}; infos.append((it, s.get(it), g))
            for d, v in g.items(): f[d] = s.match(f[d], v)
        for d, cur in f.items(): s.touch_check(d, R, cur, infos, 'addmm')
        return St([(d, v) for d, vs in f.items() for v in vs])
    def cat(s, tl, dim, out, states=None):
        states = states or [s.get(t) for t in tl]; R = out.dim(); dim %= R
        pairs = [(t, st) for t, st in zip(tl, states) if not (t.dim() == 1 and t.numel() == 0 and R > 1)]
        f = collections.defaultdict(list); other = collections.defaultdict(list)
        for t, st in pairs:
            for d, vs in s.group(st).items():
                if d != dim: other[d] = s.match(other[d], vs)
        k = max((len(s.group(st).get(dim, [])) for _, st in pairs), default=0)
        # reorder so that equal-pattern factors line up is unnecessary: an element's atoms are a *set*
        fac = []
        for i in range(k):
            v = np.concatenate([(s.group(st)[dim][i] if len(s.group(st).get(dim, [])) > i else np.zeros(t.size(dim), int)) for t, st in pairs])
            fac += s.norm(s.full((dim, v), out.shape))
        kind = 'dyn' if any(st.kind == 'dyn' for _, st in pairs) else 'uniform' if all(st.kind == 'uniform' for _, st in pairs) else 'const'
        return St([(d, v) for d, vs in other.items() for v in vs] + fac, kind)
    def index(s, x, idx, st, out):
        pos = [i for i, t in enumerate(idx) if t is not None]
        if any(idx[i].dtype == torch.bool for i in pos):
            b = next(i for i in pos if idx[i].dtype == torch.bool); nd = idx[b].dim()
            f = [(d - nd + 1 if d >= b + nd else d, v) for d, v in st.f if not (b <= d < b + nd)]
            return St([(d, v) for d, v in f if d < out.dim() and out.size(d) == len(v)])
        g = s.group(st); f = []
        dyn = any(s.get(idx[i]).kind == 'dyn' for i in pos)
        for d, vs in g.items():
            if d in pos:
                sp_ = s.get(idx[d]).space
                if sp_ is not None: s.match(vs, sp_); continue
                cidx = [i if i is None or i.device.type != 'meta' else s.shadow[id(i)][1] if id(i) in s.shadow else 0 for i in idx]
                if not dyn and not any(isinstance(i, int) for i in cidx):
                    for v in vs:
                        f += s.norm(aten.index(s.full((d, v), [z_ if i in pos else 1 for i, z_ in enumerate(x.shape)]), cidx))
                        if idx[d].numel() > 1: s.touched.append((np.unique(v), 'const:index'))      # stored indices need renumbering
                else: s.drop(vs, 'index_dyn')                                                     # data-dependent gather: unknown mapping
            else:
                z = [None if t is None else torch.zeros(t.shape, dtype=torch.long) for t in idx]
                for v in vs: f += s.norm(aten.index(s.full((d, v), [z_ if i in pos or i == d else 1 for i, z_ in enumerate(x.shape)]), z))
        return St(f, 'dyn', st.par)
    # ---- solve -----------------------------------------------------------------------------------------------
    def solve(s):
        N = s.n; ua, ub = list(s.ua), list(s.ub)
        cat_ = lambda L: np.concatenate(L) if L else np.zeros(0, int)
        tgt = cat_([t for t, fs in s.recs for _ in fs]); src = cat_([f for t, fs in s.recs for f in fs])
        ok = src != 0; tgt, src = tgt[ok], src[ok]
        for it in range(20):
            a, b = cat_(ua), cat_(ub)
            nc, cls = connected_components(sp.coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(N, N)), directed=False)
            cs, ct = cls[src].astype(np.int64), cls[tgt].astype(np.int64); m = cs != ct
            k = np.unique(cs[m] * nc + ct[m]); es, et = k // nc, k % nc          # define edges between classes
            F, row = np.unique(es, return_inverse=True)                          # factor classes
            M = sp.csr_matrix((np.ones(len(es), np.int32), (row, et)), shape=(len(F), nc))
            pos = np.full(nc, -1); pos[F] = np.arange(len(F))
            for _ in range(8):                                                   # expand to leaves
                nl = pos[M.indices] >= 0
                if not nl.any(): break
                r = np.repeat(np.arange(len(F)), np.diff(M.indptr)); c = M.indices
                keep = sp.csr_matrix((np.ones((~nl).sum(), np.int32), (r[~nl], c[~nl])), shape=M.shape)
                up = sp.csr_matrix((np.ones(nl.sum(), np.int32), (r[nl], pos[c[nl]])), shape=(len(F), len(F)))
                M = (keep + up @ M).tocsr(); M.data[:] = 1
            M.sort_indices(); h = {}; na, nb = [], []
            for i, f in enumerate(F):                                            # equal leaf sets -> same node
                kk = M.indices[M.indptr[i]:M.indptr[i+1]].tobytes(); j = h.setdefault(kk, f)
                if j != f: na.append(j); nb.append(f)
            if not na: break
            rep = np.zeros(nc, int); rep[cls] = np.arange(N); ua.append(rep[na]); ub.append(rep[nb])
        pd = np.repeat(np.arange(len(s.slots)), [x[3] for x in s.slots]); size = np.array([x[3] for x in s.slots])
        Q = sp.csr_matrix((np.ones(len(pd), np.int32), (cls[1:1+len(pd)], pd)), shape=(nc, len(s.slots)))
        s.whole = np.zeros(nc, bool)                     # closure = a whole parameter axis: can never be deleted
        def mark(rows, R):
            C = R.tocoo(); hit = (C.data >= size[C.col]) & (size[C.col] > 1); s.whole[rows[np.unique(C.row[hit])]] = True
        mark(np.arange(nc), Q)
        if len(F):
            mark(F, (M + sp.csr_matrix((np.ones(len(F), np.int32), (np.arange(len(F)), F)), shape=M.shape)) @ Q)
            ok = ~s.whole[es]; es, et = es[ok], et[ok]
            live = ~s.whole[F]; F, M = F[live], M[live]
            sz = np.diff(M.indptr); I = (M @ M.T).tocoo()                       # strict containment: superset explains subset
            q = (I.row != I.col) & (I.data == sz[I.row]) & (sz[I.row] < sz[I.col])
            es, et = np.concatenate([es, F[I.col[q]]]), np.concatenate([et, F[I.row[q]]])
        s.cls, s.nc, s.es, s.et, s.pd = cls, nc, es, et, pd
        return s
    def families(s):
        """list of Family: all groups with identical (param, dim, count) signature, as index matrices"""
        s.solve(); cls, nc, pd = s.cls, s.nc, s.pd; S = len(pd); slotcls = cls[1:1+S]
        derived = np.zeros(nc, bool); derived[s.et] = True; fac = np.zeros(nc, bool); fac[s.es] = True
        cand = np.zeros(nc, bool); cand[slotcls] = True; cand |= fac; prim = np.flatnonzero(cand & ~derived)
        D = sp.csr_matrix((np.ones(len(s.es), np.int32), (s.es, s.et)), shape=(nc, nc))
        G = sp.csr_matrix((np.ones(len(prim), np.int32), (np.arange(len(prim)), prim)), shape=(len(prim), nc)); X = G
        for _ in range(8):
            X = X @ D; X.data[:] = 1
            if X.nnz == 0: break
            G = (G + X).tocsr()
        flag = np.zeros((nc, 2), np.int32); why = {}
        for v in s.frozen: flag[cls[v[v > 0]], 0] = 1
        flag[s.whole, 0] = 1
        for v, w in s.touched:
            c = cls[v[v > 0]]; flag[c, 1] = 1
            for x in c[:4]: why.setdefault(int(x), set()).add(w)
        FL = (G @ flag) > 0
        R = (G @ sp.csr_matrix((np.ones(S, np.int32), (slotcls, np.arange(S))), shape=(nc, S))).tocsr(); R.sort_indices()
        n = np.diff(R.indptr); rng = np.random.default_rng(0); rnd = rng.integers(1, 2**62, len(s.slots), dtype=np.int64).astype(np.uint64)
        cs = np.concatenate([np.zeros(1, np.uint64), np.cumsum(rnd[pd[R.indices]], dtype=np.uint64)]); key = cs[R.indptr[1:]] - cs[R.indptr[:-1]]
        key = key * np.uint64(8) + (FL[:, 0] * 1 + FL[:, 1] * 2 + fac[prim] * 4).astype(np.uint64)
        bases = np.array([x[2] for x in s.slots]); cons = np.zeros(s.n, bool)
        if s.consumer: cons[np.concatenate(s.consumer)] = True
        batch = np.zeros(nc, bool)
        for v in s.batch: batch[cls[v[v > 0]]] = True
        out = []; order = np.argsort(key, kind='stable'); ks = key[order]
        for rows in np.split(order, np.flatnonzero(ks[1:] != ks[:-1]) + 1):
            if n[rows[0]] == 0: continue
            idx = R.indices[(R.indptr[rows][:, None] + np.arange(n[rows[0]])[None])] ; p0 = pd[idx[0]]
            cut = np.flatnonzero(np.diff(p0)) + 1; f = Family(); f.sig, f.idx, f.cons = [], [], []
            for part in np.split(np.arange(len(p0)), cut):
                nm, d, b, z = s.slots[p0[part[0]]]; f.sig.append((nm, d, len(part))); f.idx.append(idx[:, part].astype(np.int64) + 1 - b); f.cons.append(bool(cons[idx[0, part[0]] + 1]))
            f.n, f.frozen, f.derived = len(rows), bool(FL[rows[0], 0]), bool(fac[prim[rows[0]]])
            f.touched = set().union(*[why.get(int(c), set()) for c in G[rows[0]].indices]) if FL[rows[0], 1] else set()
            f.batch = bool(batch[G[rows[0]].indices].any()); out.append(f)
        return sorted(out, key=lambda f: bases[[x[0] for x in s.slots].index(f.sig[0][0])])

class Family:
    def group(f, i): return [(n, d, f.idx[k][i]) for k, (n, d, c) in enumerate(f.sig)]
    def producers(f, i): return [g for g, c in zip(f.group(i), f.cons) if not c]
    def consumers(f, i): return [g for g, c in zip(f.group(i), f.cons) if c]

def trace(model, inputs=None):
    tr = Tracer(model); dev = next(model.parameters()).device
    inputs = inputs or {"input_ids": torch.arange(5)[None] + 3}
    with torch.no_grad(), tr:
        def there(x):
            y = x.to(dev)
            if tr.meta: tr.shadow[id(y)] = (y, x)
            tr.set(y, St(kind='dyn'))
            return y
        inputs = tree_map_only(Tn, lambda x: there(x.detach()), inputs)
        tr.ids = inputs
        model(**inputs, use_cache=False)
    return tr
