" The wire: curl. The key goes to it on standard input, so that no list of processes shows it; the body through a file
" of Vim's own private folder, since curl takes no long line there.
let s:nvim = has('nvim')
let s:client = (s:nvim ? 'neovim' : 'vim') . '/0.1.0'
let s:key = v:null

function! s:find_key() abort
  if s:key is v:null
    let l:command = starloom#setting('key_command')
    let s:key = l:command !=# '' ? trim(system(l:command)) : $STARLOOM_API_KEY
    let s:key = s:key =~# '^[[:graph:]]*$' ? escape(s:key, '\"') : ''
  endif
  return s:key
endfunction

function! starloom#wire#key_from() abort
  let l:named = starloom#setting('key_command') !=# '' ? 'of g:starloom.key_command' : $STARLOOM_API_KEY !=# '' ? 'of $STARLOOM_API_KEY' : ''
  return l:named ==# '' ? 'of ~/.netrc, if it names the host' : s:find_key() ==# '' ? l:named . ', WHICH GIVES NONE' : l:named
endfunction

" curl's configuration for a path; `file` holds the body of a POST.
function! s:config(path, file) abort
  let l:lines = ['url = "' . escape(substitute(starloom#setting('url'), '/\+$', '', '') . a:path, '\"') . '"',
        \ 'header = "X-Starloom-Client: ' . s:client . '"', 'silent', 'show-error', 'max-time = 30', 'connect-timeout = 5',
        \ 'write-out = "\n%{http_code} %header{retry-after}"']
  if a:file !=# ''
    let l:lines += ['header = "Content-Type: application/json"', 'header = "Expect:"', 'data-binary = "@' . escape(a:file, '\"') . '"']
  endif
  let l:lines += [s:find_key() ==# '' ? 'netrc-optional' : 'header = "Authorization: Bearer ' . s:find_key() . '"']
  return join(l:lines, "\n") . "\n"
endfunction

" The answer's object, or {'problem': one line, 'wait': seconds}.
function! s:read(text, errors) abort
  let l:parts = matchlist(a:text, '^\(\_.*\)\n\(\d\+\) \?\(\d*\)\s*$')
  let [l:body, l:status, l:wait] = empty(l:parts) ? ['', '000', ''] : l:parts[1:3]
  if l:status ==# '000'
    let l:why = substitute(trim(join(split(a:errors, "\n"), ' ')), '^curl: ', '', '')
    return {'problem': 'no answer from ' . starloom#setting('url') . (l:why ==# '' ? '' : ': ' . l:why), 'wait': 2}
  endif
  try
    let l:told = json_decode(l:body)
  catch
    let l:told = v:null
  endtry
  let l:wait = str2nr(l:wait) > 0 ? str2nr(l:wait) : l:status >= 500 || type(l:told) != v:t_dict ? 2 : 0
  if l:status[0] ==# '2' && type(l:told) == v:t_dict
    return l:told
  endif
  let l:error = type(l:told) == v:t_dict ? get(l:told, 'error', get(l:told, 'detail', '')) : 'no JSON; is this a Starloom server?'
  let l:message = type(l:error) == v:t_dict ? get(l:error, 'message', '') : type(l:error) == v:t_string ? l:error : string(l:error)
  return {'problem': l:status . ' ' . l:message, 'wait': l:wait, 'status': str2nr(l:status)}
endfunction

" Ask, and call back with what `s:read` makes of the answer, unless it is stopped before. A handle for `stop`.
function! starloom#wire#post(path, body, callback) abort
  let l:file = tempname()
  call writefile([json_encode(a:body)], l:file, 'b')
  let l:got = {'out': [], 'err': [], 'file': l:file, 'callback': a:callback, 'stopped': 0}
  let l:command = ['curl', '-q', '--config', '-']
  if s:nvim
    let l:got.job = jobstart(l:command, {'stdout_buffered': 1, 'stderr_buffered': 1,
          \ 'on_stdout': {_, data, __ -> extend(l:got.out, data)}, 'on_stderr': {_, data, __ -> extend(l:got.err, data)},
          \ 'on_exit': {-> s:ended(l:got)}})
    call chansend(l:got.job, s:config(a:path, l:file))
    call chanclose(l:got.job, 'stdin')
  else
    let l:got.job = job_start(l:command, {'mode': 'raw', 'out_cb': {_, data -> add(l:got.out, data)},
          \ 'err_cb': {_, data -> add(l:got.err, data)}, 'close_cb': {_ -> s:ended(l:got)}})
    call ch_sendraw(l:got.job, s:config(a:path, l:file))
    call ch_close_in(l:got.job)
  endif
  return l:got
endfunction

function! s:ended(got) abort
  call delete(a:got.file)
  if !a:got.stopped
    let l:glue = s:nvim ? "\n" : ''
    call a:got.callback(s:read(join(a:got.out, l:glue), join(a:got.err, l:glue)))
  endif
endfunction

function! starloom#wire#stop(got) abort
  let a:got.stopped = 1
  if s:nvim
    call jobstop(a:got.job)
  else
    call job_stop(a:got.job, 'kill')
  endif
endfunction

" A GET that is waited for.
function! starloom#wire#now(path) abort
  let l:config = substitute(s:config(a:path, ''), 'max-time = 30', 'max-time = 5', '')
  return s:read(system('curl -q --config -', l:config), '')
endfunction

" What became of a completion: numbers, never a text.
function! starloom#wire#event(type, id, characters) abort
  call starloom#wire#post('/v1/events', {'type': a:type, 'completion_id': a:id, 'characters': a:characters, 'language': &filetype}, {-> 0})
endfunction
