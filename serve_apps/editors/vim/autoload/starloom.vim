" Suggestions at the cursor: what is asked, when, what is shown and taken. The wire is in autoload/starloom/wire.vim,
" what stands in the training data in autoload/starloom/found.vim.
let s:defaults = {'url': 'http://127.0.0.1:8000', 'model': '', 'key_command': '', 'debounce': 75, 'max_tokens': 96,
      \ 'lines': 8, 'enabled': 1, 'automatic': 1, 'with_menu': 0, 'other_files': 1, 'attribution': 1, 'tell_server': 0,
      \ 'off_filetypes': ['', 'text', 'help', 'gitcommit', 'qf', 'netrw'], 'exclude': []}
let s:ahead = 8192      " characters before the cursor that are sent
let s:behind = 2048     " and after it
let s:grid = 64         " a window begins at a multiple of so many lines: the server's cache knows its beginning
let s:longest = 65536   " bytes of a line that somebody types
let s:secret = '\v\c(^|[\\/])(\.env([.-][^\\/]*)?|\.envrc|\.netrc|_netrc|\.npmrc|\.pypirc|\.git-credentials|\.pgpass|\.htpasswd|\.authinfo[^\\/]*'
      \ . '|credentials(\.\w+)?|secrets?\.(ya?ml|json|toml|ini|env|tfvars)|id_(rsa|dsa|ecdsa|ed25519)[^\\/]*'
      \ . '|[^\\/]*\.(pem|key|p12|pfx|kdbx|gpg|asc|jks|keystore|tfvars|tfstate))$|(^|[\\/])\.(ssh|gnupg|aws|kube|docker)[\\/]'
let s:nvim = has('nvim')
let s:shown = {}        " the suggestion on screen: buffer, line, col, text, id
let s:request = {}      " the one that is waited for
let s:timer = -1
let s:cache = {}
let s:ring = []
let s:counts = {'asked': 0, 'shown': 0, 'accepted': 0, 'cancelled': 0, 'cached': 0}
let s:problem = ''
let s:note = ''         " where the last accepted copy stands
let s:resting = 0       " until then nobody is asked of itself

if s:nvim
  let s:space = nvim_create_namespace('starloom')
endif

function! starloom#setting(name) abort
  return get(get(g:, 'starloom', {}), a:name, s:defaults[a:name])
endfunction

" For a status line: what the server said last, or how many suggestions were taken.
function! starloom#status() abort
  if s:problem !=# ''
    return 'Starloom: ' . s:problem
  endif
  return starloom#setting('enabled') ? printf('Starloom%s %d/%d%s', empty(s:request) ? '' : '…', s:counts.accepted, s:counts.shown, s:note) : 'Starloom: off'
endfunction

function! starloom#note(text) abort
  let s:note = a:text
  redrawstatus
endfunction

function! starloom#toggle() abort
  let g:starloom = extend(get(g:, 'starloom', {}), {'enabled': !starloom#setting('enabled')})
  call starloom#dismiss()
  echo starloom#status()
endfunction

function! starloom#colours() abort
  highlight default link StarloomGhost Comment
  highlight default link StarloomFound SpellLocal
  if !s:nvim && empty(prop_type_get('StarloomGhost'))
    call prop_type_add('StarloomGhost', {'highlight': 'StarloomGhost'})
    call prop_type_add('StarloomFound', {'highlight': 'StarloomFound'})
  endif
endfunction

" ---- what may be sent

function! s:name() abort
  return fnamemodify(expand('%'), ':.')
endfunction

" Files whose text is never sent: by their names, by the user's patterns, by git.
function! starloom#kept() abort
  let l:path = expand('%:p')
  return &buftype !=# '' || &binary || match(getline(line('.'), line('.') + 8), '\n') >= 0 || l:path =~# s:secret || !empty(filter(copy(starloom#setting('exclude')), {_, one -> l:path =~# glob2regpat(one) || s:name() =~# glob2regpat(one)}))
endfunction

function! s:ignored() abort
  if !exists('b:starloom_ignored')
    let b:starloom_ignored = executable('git') && filereadable(expand('%:p'))
          \ && empty(system('git -C ' . shellescape(expand('%:p:h')) . ' check-ignore -q ' . shellescape(expand('%:p')))) && v:shell_error == 0
  endif
  return b:starloom_ignored
endfunction

" Keep a piece of this file for requests from others, what was seen last at the end.
function! starloom#remember() abort
  if !starloom#setting('other_files') || expand('%') ==# '' || &filetype ==# '' || starloom#kept() || s:ignored()
    return
  endif
  let l:from = max([1, line('.') - 32])
  let l:lines = getline(l:from, l:from + 63)
  let l:text = strcharpart(join(l:lines, "\n"), 0, 8192)
  call filter(s:ring, {_, one -> one.filename !=# s:name()})
  if len(trim(l:text)) >= 40 && match(l:lines, '\n') < 0
    call add(s:ring, {'filename': s:name(), 'text': l:text})
  endif
  let s:ring = s:ring[max([0, len(s:ring) - 16]) :]
endfunction

" ---- asking

function! starloom#changed() abort
  if !empty(s:shown) && s:typed_through()
    return
  endif
  call starloom#dismiss()
  if !starloom#setting('enabled') || !starloom#setting('automatic') || index(starloom#setting('off_filetypes'), &filetype) >= 0
        \ || localtime() < s:resting || (pumvisible() && !starloom#setting('with_menu'))
    return
  endif
  let s:timer = timer_start(starloom#setting('debounce'), {-> starloom#suggest(0)})
endfunction

" The user has typed what the ghost shows: it gets shorter and nobody is asked.
function! s:typed_through() abort
  let [l:line, l:col] = [line('.'), col('.')]
  if l:line != s:shown.line || bufnr('%') != s:shown.buffer || l:col <= s:shown.col
    return l:line == s:shown.line && bufnr('%') == s:shown.buffer && l:col == s:shown.col && b:changedtick == s:shown.tick
  endif
  let l:more = strpart(getline('.'), s:shown.col - 1, l:col - s:shown.col)
  if stridx(s:shown.text, l:more) != 0 || len(l:more) >= len(s:shown.text) || len(getline('.')) != s:shown.length + len(l:more)
    return 0
  endif
  call s:show(strpart(s:shown.text, len(l:more)), s:shown.id, 0)
  return 1
endfunction

" The text around the cursor: whole lines from a grid, so that the beginning stays while somebody types on.
function! s:window() abort
  let [l:line, l:here] = [line('.'), getline('.')]
  let l:from = max([1, (l:line - 200) / s:grid * s:grid + 1])
  let l:before = getline(l:from, l:line - 1) + [strpart(l:here, 0, col('.') - 1)]
  while len(l:before) > s:grid && strchars(join(l:before, "\n")) > s:ahead
    let l:before = l:before[s:grid :]
  endwhile
  let l:prefix = join(l:before, "\n")
  let l:suffix = join([strpart(l:here, col('.') - 1)] + getline(l:line + 1, l:line + 64), "\n")
  return [strcharpart(l:prefix, max([0, strchars(l:prefix) - s:ahead])), strcharpart(l:suffix, 0, s:behind)]
endfunction

function! starloom#suggest(manual) abort
  let l:within = strpart(getline('.'), col('.') - 1, 1) =~# '\k'
  if mode() !~# '^i' || starloom#kept() || col('$') > s:longest || (!a:manual && (l:within || (pumvisible() && !starloom#setting('with_menu'))))
    return
  endif
  let [l:prefix, l:suffix] = s:window()
  let l:key = sha256(l:prefix . "\1" . strcharpart(l:suffix, 0, 200))
  if has_key(s:cache, l:key)
    let s:counts.cached += 1
    return s:show(s:cache[l:key].text, s:cache[l:key].id, 1)
  endif
  let l:most = matchstr(l:suffix, '^[^\n]*') =~# '[^]})"''`;:, \t]' ? 1 : starloom#setting('lines')
  let l:body = {'prompt': l:prefix, 'suffix': l:suffix, 'max_tokens': starloom#setting('max_tokens'), 'temperature': 0, 'max_lines': l:most,
        \ 'filepath': s:name(), 'language': &filetype, 'extra_context': filter(copy(s:ring), {_, one -> one.filename !=# s:name()})}
  if starloom#setting('model') !=# ''
    let l:body.model = starloom#setting('model')
  endif
  call starloom#dismiss()
  let s:counts.asked += 1
  let l:asked = {'buffer': bufnr('%'), 'at': [line('.'), col('.')], 'tick': b:changedtick, 'suffix': l:suffix, 'key': l:key, 'most': l:most}
  let s:request = starloom#wire#post('/v1/completions', l:body, function('s:answered', [l:asked]))
endfunction

function! s:answered(asked, told) abort
  let s:request = {}
  let s:problem = get(a:told, 'problem', '')
  let s:resting = localtime() + get(a:told, 'wait', 0)
  redrawstatus
  if s:problem !=# ''
    return
  endif
  let l:answer = {'id': get(a:told, 'id', ''), 'text': s:trimmed(a:told.choices[0].text, a:asked.suffix, a:asked.most)}
  let s:cache[a:asked.key] = l:answer
  let s:cache = len(s:cache) > 200 ? {a:asked.key : l:answer} : s:cache
  if mode() =~# '^i' && bufnr('%') == a:asked.buffer && b:changedtick == a:asked.tick && [line('.'), col('.')] == a:asked.at
    call s:show(l:answer.text, l:answer.id, 1)
  endif
endfunction

" An answer without what stands behind the cursor already.
function! s:trimmed(text, suffix, most) abort
  let l:lines = split(substitute(substitute(a:text, '\r', '', 'g'), '\_s\+$', '', ''), "\n", 1)[: a:most - 1]
  let l:following = split(a:suffix, "\n", 1)
  let l:next = get(filter(l:following[1:], {_, one -> one =~# '\S'}), 0, '')
  let l:repeated = l:next ==# '' ? -1 : index(l:lines, l:next, 1)
  let l:text = substitute(join(l:repeated > 0 ? l:lines[: l:repeated - 1] : l:lines, "\n"), '\_s\+$', '', '')
  let l:rest = get(l:following, 0, '')
  for l:tail in [l:rest, trim(l:rest)]
    if l:tail =~# '\S' && len(l:text) >= len(l:tail) && strpart(l:text, len(l:text) - len(l:tail)) ==# l:tail
      return strpart(l:text, 0, len(l:text) - len(l:tail))
    endif
  endfor
  return l:text
endfunction

" ---- ghost text

" Lines as they are seen: tabs reach to the next tab stop, counted from the column in which the line begins.
function! s:seen(line, column) abort
  let [l:seen, l:width] = ['', a:column]
  for l:part in split(a:line, '\t\zs')
    let l:words = substitute(l:part, '\t$', '', '')
    let l:width += strdisplaywidth(l:words, l:width)
    let l:blanks = l:part =~# '\t$' ? &tabstop - l:width % &tabstop : 0
    let l:seen .= l:words . repeat(' ', l:blanks)
    let l:width += l:blanks
  endfor
  return l:seen
endfunction

function! s:show(text, id, fresh) abort
  call s:clear()
  if a:text ==# ''
    return
  endif
  let s:counts.shown += a:fresh
  if a:fresh && starloom#setting('tell_server')
    call starloom#wire#event('view', a:id, strchars(a:text))
  endif
  let s:shown = {'buffer': bufnr('%'), 'line': line('.'), 'col': col('.'), 'text': a:text, 'id': a:id, 'tick': b:changedtick, 'length': len(getline('.'))}
  let l:lines = map(split(a:text, "\n", 1), {number, one -> s:seen(one, number ? 0 : virtcol('.') - 1)})
  if s:nvim
    let l:place = has('nvim-0.10') ? 'inline' : col('.') > len(getline('.')) ? 'overlay' : 'eol'
    let l:mark = {'virt_text_pos': l:place, 'virt_text': [[l:lines[0], 'StarloomGhost']], 'hl_mode': 'combine'}
    if len(l:lines) > 1
      let l:mark.virt_lines = map(l:lines[1:], {_, one -> [[one, 'StarloomGhost']]})
    endif
    call nvim_buf_set_extmark(0, s:space, line('.') - 1, col('.') - 1, l:mark)
    return
  endif
  for l:number in range(len(l:lines))
    let l:text = l:lines[l:number] ==# '' ? ' ' : l:lines[l:number]
    call prop_add(line('.'), l:number ? 0 : col('.'), extend({'type': 'StarloomGhost', 'text': l:text}, l:number ? {'text_align': 'below'} : {}))
  endfor
endfunction

function! s:clear() abort
  if !empty(s:shown) && bufexists(s:shown.buffer) && s:nvim
    call nvim_buf_clear_namespace(s:shown.buffer, s:space, 0, -1)
  elseif !empty(s:shown) && bufexists(s:shown.buffer)
    call prop_remove({'type': 'StarloomGhost', 'bufnr': s:shown.buffer, 'all': v:true})
  endif
  let s:shown = {}
endfunction

" Take the suggestion away and hang up, which ends the work on the server.
function! starloom#dismiss() abort
  call timer_stop(s:timer)
  if !empty(s:request)
    let s:counts.cancelled += 1
    call starloom#wire#stop(s:request)
    let s:request = {}
  endif
  call s:clear()
endfunction

" An expression for a map: what takes a part of the suggestion, or what the key did before.
function! starloom#accept(part, otherwise) abort
  if empty(s:shown)
    return a:otherwise ==# "\<Tab>" ? s:tab() : a:otherwise
  endif
  let l:word = '^\_s*\%(\k\+\|[^[:keyword:][:space:]]\+\)'
  let l:text = a:part ==# 'all' ? s:shown.text : matchstr(s:shown.text, a:part ==# 'line' ? '^\n\?[^\n]*' : l:word)
  let s:taken = {'text': l:text, 'rest': strpart(s:shown.text, len(l:text)), 'id': s:shown.id}
  return "\<C-g>u\<Cmd>call starloom#_insert()\<CR>"
endfunction

function! s:tab() abort
  let l:before = get(g:, 'starloom_tab', {})
  if empty(l:before)
    return "\<Tab>"
  endif
  if has_key(l:before, 'callback') " Neovim maps Tab itself, to a function of Lua
    let l:keys = call(l:before.callback, [])
    return l:before.expr ? nvim_replace_termcodes(l:keys, 1, 1, 1) : ''
  endif
  let l:rhs = substitute(l:before.rhs, '<SID>', '<SNR>' . l:before.sid . '_', 'g')
  return l:before.expr ? eval(l:rhs) : substitute(l:rhs, '<\([^>]\+\)>', {m -> eval('"\<' . m[1] . '>"')}, 'g')
endfunction

function! starloom#_insert() abort
  let l:taken = s:taken
  call starloom#dismiss()
  let [l:line, l:col, l:here] = [line('.'), col('.'), getline('.')]
  let l:lines = split(l:taken.text, "\n", 1)
  let l:lines[0] = strpart(l:here, 0, l:col - 1) . l:lines[0]
  let l:end = len(l:lines[-1])
  let l:lines[-1] .= strpart(l:here, l:col - 1)
  call setline(l:line, l:lines[0])
  call append(l:line, l:lines[1:])
  call cursor(l:line + len(l:lines) - 1, l:end + 1)
  let s:counts.accepted += l:taken.rest ==# ''
  let s:note = ''
  if starloom#setting('tell_server')
    call starloom#wire#event('select', l:taken.id, strchars(l:taken.text))
  endif
  if l:taken.rest !=# ''
    call s:show(l:taken.rest, l:taken.id, 0)
  elseif starloom#setting('attribution')
    call starloom#found#accepted(l:line, l:col, line('.'), col('.'))
  endif
endfunction

" ---- commands

function! starloom#health() abort
  echo 'Starloom: ' . (s:nvim ? 'Neovim' : 'Vim ' . v:versionlong) . ', curl ' . (executable('curl') ? 'found' : 'MISSING: install curl')
  echo 'server: ' . starloom#setting('url') . ', key ' . starloom#wire#key_from()
  let l:told = executable('curl') ? starloom#wire#now('/v1/models') : {'problem': 'there is no curl'}
  let [s:problem, s:resting] = [get(l:told, 'problem', ''), 0]
  for l:card in get(l:told, 'data', [])
    echo printf('model: %s, a window of %d tokens, fills gaps: %s, attribution: %s', l:card.id, get(l:card, 'max_model_len', 0),
          \ get(l:card, 'infilling', 0) ? 'yes' : 'no', get(l:card, 'attribution', 0) ? 'yes' : 'no')
  endfor
  echo s:problem ==# '' ? 'all is well' : 'problem: ' . s:problem
endfunction
