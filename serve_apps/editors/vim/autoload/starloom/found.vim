" What stands in the training data: marked in the text, listed in the quickfix list with file, lines and licence.
let s:nvim = has('nvim')
let s:tail = 100 " bytes before an accepted text that are looked up with it: a copy may begin there
if s:nvim
  let s:space = nvim_create_namespace('starloom_found')
endif

function! starloom#found#look_up(first, last) abort
  call s:ask(a:first, join(getline(a:first, a:last), "\n"), 0, 1)
endfunction

" The text from one place to another has just been taken.
function! starloom#found#accepted(line, col, last, end) abort
  let l:lines = getline(a:line, a:last)
  let l:lines[-1] = strpart(l:lines[-1], 0, a:end - 1)
  let l:before = strpart(l:lines[0], 0, a:col - 1)
  let l:first = a:line
  while len(l:before) < s:tail && l:first > 1
    let l:first -= 1
    let l:before = getline(l:first) . "\n" . l:before
  endwhile
  let l:lines[0] = strpart(l:lines[0], a:col - 1)
  call s:ask(l:first, l:before . join(l:lines, "\n"), len(l:before), 0)
endfunction

" Look a text up that begins a line; what ends before `wanted` bytes of it is no answer.
function! s:ask(line, text, wanted, told) abort
  if starloom#kept()
    return
  endif
  call starloom#wire#post('/overlap', {'document': a:text, 'offsets': 'utf-8'}, function('s:answered', [bufnr('%'), a:line, a:text, a:wanted, a:told]))
endfunction

function! s:answered(buffer, first, text, wanted, told, answer) abort
  if has_key(a:answer, 'problem')
    if a:told || get(a:answer, 'status', 0) != 404
      echohl WarningMsg | echo 'Starloom: ' . a:answer.problem | echohl None
    endif
    return
  endif
  let l:items = []
  for l:match in filter(copy(a:answer.matches), {_, one -> one.span[1] > a:wanted})
    let [l:line, l:col] = s:place(a:first, a:text, max([a:wanted, l:match.span[0]]))
    let [l:end_line, l:end_col] = s:place(a:first, a:text, l:match.span[1])
    call s:mark(a:buffer, l:line, l:col, l:end_line, l:end_col)
    call add(l:items, {'bufnr': a:buffer, 'lnum': l:line, 'col': l:col, 'type': 'I', 'text': s:label(l:match)})
  endfor
  call starloom#note(empty(l:items) ? '' : ' ' . l:items[0].text)
  call setqflist([], 'a', {'title': 'Starloom attribution', 'items': l:items})
  if a:told || !empty(l:items)
    echo empty(l:items) ? 'Starloom: nothing of this stands in the training data' : 'Starloom: ' . l:items[0].text . (len(l:items) > 1 ? printf(', and %d more passages (:copen)', len(l:items) - 1) : '')
  endif
endfunction

function! s:label(match) abort
  let l:how = {'exact': '', 'white_space': ' but for white space', 'comments': ' but for comments', 'renamed': ' but for names'}
  let l:licenses = filter(keys(a:match.licenses), {_, one -> one !=# 'none'})
  let l:label = 'in the training data' . get(l:how, a:match.kind, '')
  if !empty(a:match.files)
    let l:file = a:match.files[0]
    let l:label .= printf(': %s %s, lines %d-%d', l:file.repository, l:file.path, l:file.lines[0], l:file.lines[1])
  endif
  return l:label . ' (' . (empty(l:licenses) ? 'no licence stated' : join(l:licenses, ', ')) . ')' . (a:match.count > 1 ? printf(' and %d more', a:match.count - 1) : '')
endfunction

" Line and column of a byte of a text whose first line is `first`.
function! s:place(first, text, byte) abort
  let l:before = split(strpart(a:text, 0, a:byte), "\n", 1)
  return [a:first + len(l:before) - 1, len(l:before[-1]) + 1]
endfunction

function! s:mark(buffer, line, col, end_line, end_col) abort
  if !bufexists(a:buffer) || a:end_line > getbufinfo(a:buffer)[0].linecount
    return
  endif
  if s:nvim
    call nvim_buf_set_extmark(a:buffer, s:space, a:line - 1, a:col - 1, {'end_row': a:end_line - 1, 'end_col': a:end_col - 1, 'hl_group': 'StarloomFound', 'strict': v:false})
  else
    call prop_add(a:line, a:col, {'type': 'StarloomFound', 'bufnr': a:buffer, 'end_lnum': a:end_line, 'end_col': a:end_col})
  endif
endfunction

function! starloom#found#list() abort
  execute getqflist({'title': 0}).title ==# 'Starloom attribution' && !empty(getqflist()) ? 'copen' : 'echo "Starloom: nothing found so far"'
endfunction
